"""All that a run's directory says, read for its page: nothing in it is needed, and what is damaged is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saelab.errors import SaelabError
from saelab.evals.base import EVALUATORS
from saelab.evals.records import Plan, RunRecord, finite, read_evaluations, read_object, read_run
from saelab.evals.report.measured import Evaluation, read_evaluation
from saelab.features import Bundle
from saelab.features.bundle import state
from saelab.training.curves import Curve, Curves
from saelab.training.run_directory import RunDirectory


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    Attributes:
        path: as it is to be named in commands.
        record: its numbers, and how far it is.
        plan: what its config set out to do.
        config: the whole of it, and as it stands in the file; empty where there is none.
        sae: `sae/config.json`; summary: `summary.json`; empty where they are not there.
        evaluations: what is measured; unfinished: evaluators that were begun.
        curves: of `metrics.jsonl`, by name.
        bundle: its feature index; None where there is none, and `no_bundle` says why.
        problems: what could not be read, a sentence each.
    """

    path: Path
    record: RunRecord
    plan: Plan
    config: Mapping[str, Any]
    config_text: str
    sae: Mapping[str, Any]
    summary: Mapping[str, Any]
    evaluations: Sequence[Evaluation]
    unfinished: Sequence[str]
    curves: Mapping[str, Curve]
    bundle: Bundle | None
    no_bundle: str = ""
    problems: Sequence[str] = field(default=())

    @property
    def name(self) -> str:
        return self.path.absolute().name

    def evaluation(self, name: str) -> Evaluation | None:
        return next((found for found in self.evaluations if found.name == name), None)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the SAE's own config says of its making."""
        return mapping(self.sae.get("provenance"))

    @property
    def tokens_per_step(self) -> float:
        """Of training; 1 where it is not known, and steps stand for tokens."""
        tokens = self.curves.get("tokens")
        newest = tokens.newest if tokens else None
        return newest[1] / newest[0] if newest and newest[0] > 0 and newest[1] > 0 else 1.0


def read(path: Path, plan: Plan | None = None, config: Mapping[str, Any] | None = None) -> Run:
    """Read the run in `path`.

    Args:
        plan, config: what its config says, for those who may read configs.

    Raises:
        SaelabError: the directory itself refuses to be read.
    """
    record, place, problems = read_run(path, plan), RunDirectory(path), list[str]()
    summary = read_object(place.summary, [])
    entries = read_evaluations(place.eval, _text(summary.get("sae_sha256")), [])
    bundle, no_bundle = _bundle(place, summary)
    return Run(
        path=path,
        record=record,
        plan=plan or Plan(),
        config=config or {},
        config_text=_read_text(place.config),
        sae=read_object(place.sae / "config.json", []),
        summary=summary,
        evaluations=[read_evaluation(name, entries[name]) for name in in_order(entries)],
        unfinished=[str(name) for name in mapping(read_object(place.eval, []).get("unfinished"))],
        curves=_curves(place, problems),
        bundle=bundle,
        no_bundle=no_bundle,
        problems=[*record.problems, *problems],
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Evaluators as they are registered; others after them, as they come."""
    known = list(EVALUATORS)
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def mapping(value: Any) -> Mapping[str, Any]:
    """An object, or nothing."""
    return value if isinstance(value, dict) else {}


def number(found: Mapping[str, Any], key: str) -> float | None:
    return finite(found.get(key))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _curves(place: RunDirectory, problems: list[str]) -> dict[str, Curve]:
    curves = Curves(place.metrics)
    try:
        curves.read_on()
    except OSError as error:
        problems.append(f"{place.metrics.name}: it cannot be read: {error.strerror or error}")
    return curves.by_name


def _bundle(place: RunDirectory, summary: Mapping[str, Any]) -> tuple[Bundle | None, str]:
    """The index, or why there is none."""
    if state(place.index) != "complete":
        begun = state(place.index) == "building"
        return None, "the index is not finished yet" if begun else "there is no feature index yet"
    try:
        bundle = Bundle(place.index)
    except SaelabError as error:
        return None, f"the index cannot be read: {error.message}"
    if summary.get("sae_sha256") not in (None, bundle.sae_sha256):
        return None, "the index is of another SAE than the one in sae/"
    return bundle, ""
