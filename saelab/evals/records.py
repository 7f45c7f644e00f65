"""What a run's directory says about it, finished or not, without opening a config or any weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from saelab.errors import SaelabError
from saelab.files import read_json
from saelab.training.run_directory import RunDirectory

MAX_DEPTH = 5
"""Directories below the one asked for that are looked into."""
_TARGETS = ("k", "target_l0", "l0")
"""Settings that say how sparse codes are to be; a variant has one of them, or none."""
_NO_PLACE_FOR_RUNS = frozenset({"checkpoints", "sae", "index", "wandb"})

FOREIGN = "no run"
"""Why a directory that could be read is passed over."""

State = Literal["training", "trained", "evaluated", "failed"]


@dataclass(frozen=True)
class Plan:
    """What a run set out to do, as its config says: known before there is anything to measure.

    Attributes:
        kind, settings: of the SAE.
        tokens: training will see.
        evaluators: by name, that measure it in the end.
        seed: of training.
    """

    kind: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    evaluators: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class RunRecord:
    """One run. What is not known, or not measured yet, is None or absent; it is never 0.

    Attributes:
        path: its directory.
        kind, settings: of the SAE.
        state: how far it is.
        progress: share of training done, in [0, 1].
        tokens: seen in training.
        tokens_per_second: of training.
        seed: of training.
        metrics: what evaluators found, by name: `fvu`, `l0`, `ce_score`, `dead_frac`, ...
        heldout: what training itself found on fewer held-out tokens: `fvu`, `l0`, ...; of the inference
            form once there is one.
        written: when its files last changed, seconds since 1970.
        problems: what could not be read, a sentence each; where training failed, why.
    """

    path: Path
    kind: str | None
    settings: Mapping[str, Any]
    state: State
    progress: float | None
    tokens: int | None
    tokens_per_second: float | None
    seed: int | None
    metrics: Mapping[str, float]
    heldout: Mapping[str, float]
    written: float
    problems: tuple[str, ...] = ()

    def value(self, name: str) -> float | None:
        """A metric as it was measured last: by an evaluator, or else while training."""
        return self.metrics.get(name, self.heldout.get(name))

    @property
    def target(self) -> str | None:
        """The setting that decides the sparsity, such as "k 32"; None where the variant has none."""
        known = {name: number for name in _TARGETS if (number := finite(self.settings.get(name))) is not None}
        return next((f"{name} {value:g}" for name, value in known.items()), None)

    @property
    def standing(self) -> str:
        """How far it is, in words: "training 40 %"."""
        under_way = self.state == "training" and self.progress is not None
        return f"{self.state} {100 * (self.progress or 0):.0f} %" if under_way else self.state

    def document(self) -> dict[str, Any]:
        """JSON-able, every field."""
        return {
            **vars(self),
            "path": str(self.path),
            "settings": dict(self.settings),
            "metrics": dict(self.metrics),
            "heldout": dict(self.heldout),
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class Found:
    """Below one directory: runs in the order of their paths, and directories that are or hold none, with the reason."""

    runs: tuple[Path, ...]
    others: Mapping[Path, str]


def find_runs(root: Path, depth: int = MAX_DEPTH) -> Found:
    """Look for runs in `root` and up to `depth` directories below, not inside runs.

    Raises:
        SaelabError: it is not a directory.
    """
    if not root.is_dir():
        missing = "this is not a directory" if root.exists() else "this directory does not exist"
        raise SaelabError(f"there are no runs here: {missing}", where=str(root), fix="name a directory that holds runs")
    return _look(root, depth)


def is_run(path: Path) -> bool:
    """Whether a run has begun here."""
    place = RunDirectory(path)
    signs = (place.config, place.metrics, place.summary, place.sae / "config.json")
    return any(sign.is_file() for sign in signs)


def _look(path: Path, depth: int) -> Found:
    try:
        if is_run(path):
            return Found((path,), {})
        inside = directories(path) if depth else []
    except OSError as error:
        return Found((), {path: _refused(error)})
    below = [_look(directory, depth - 1) for directory in inside]
    runs = tuple(run for found in below for run in found.runs)
    others = {other: why for found in below for other, why in found.others.items()}
    if not runs:  # one line for a foreign tree, and one for each part of it that has another reason
        others = {other: why for other, why in others.items() if why != FOREIGN} or {path: FOREIGN}
    return Found(runs, others)


def directories(path: Path) -> list[Path]:
    """Where runs may lie directly inside `path`."""
    return sorted(
        inside
        for inside in path.iterdir()
        if inside.is_dir()
        and inside.name not in _NO_PLACE_FOR_RUNS
        and not inside.name.startswith((".", "_"))
        and ".tmp-" not in inside.name
    )


def _refused(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def read_run(path: Path, plan: Plan | None = None) -> RunRecord:
    """Read what the run in `path` has written so far; damaged files are named in `problems`.

    Raises:
        SaelabError: the directory itself refuses to be read.
    """
    try:
        return _read(path, plan or Plan())
    except OSError as error:
        raise SaelabError(_refused(error), where=str(path)) from error


def _read(path: Path, plan: Plan) -> RunRecord:
    place = RunDirectory(path)
    problems: list[str] = []
    sae = read_object(place.sae / "config.json", problems)
    summary = read_object(place.summary, problems)
    lines = {} if summary else _latest(place.metrics, problems)
    evaluations = read_evaluations(place.eval, summary.get("sae_sha256"), problems)
    failed = _failed(place, problems)
    tokens = finite(summary.get("tokens", lines.get("tokens")))
    return RunRecord(
        path=path,
        kind=kind if isinstance(kind := sae.get("kind"), str) else plan.kind,
        settings=settings if isinstance(settings := sae.get("settings"), dict) else plan.settings,
        state=_state(failed, place.finished, evaluations, plan),
        progress=1.0 if place.finished else min(1.0, (tokens or 0) / plan.tokens) if plan.tokens else None,
        tokens=None if tokens is None else int(tokens),
        tokens_per_second=finite(summary.get("tokens_per_second", lines.get("tokens_per_second"))),
        seed=plan.seed,
        metrics={name: x for entry in evaluations.values() for name, x in finite_numbers(entry["metrics"]).items()},
        heldout=finite_numbers(_deployed(summary)) if summary else _while_training(lines),
        written=_written(place),
        problems=tuple(problems),
    )


def _state(failed: bool, finished: bool, evaluations: Mapping[str, Any], plan: Plan) -> State:
    if failed:
        return "failed"
    if not finished:
        return "training"
    return "evaluated" if evaluations and evaluations.keys() >= set(plan.evaluators) else "trained"


def _failed(place: RunDirectory, problems: list[str]) -> bool:
    """Whether training stopped for good; why is one of the problems."""
    try:
        failure = place.failure
    except (SaelabError, KeyError, TypeError):
        failure = "its failed.json cannot be read"
    problems += [f"training failed: {failure}"] if failure else []
    return failure is not None


def read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none, and a problem where it is damaged."""
    if not path.exists():
        return {}
    try:
        found = read_json(path)
    except SaelabError as error:
        problems.append(f"{path.name}: {error.message}")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{path.name}: not a JSON object")
        return {}
    return found


def read_evaluations(path: Path, sae_sha256: str | None, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Entries of `eval.json` that are of this run's SAE."""
    document = read_object(path, problems)
    found = document.get("evaluations", {})
    if sae_sha256 and document and document.get("sae_sha256") != sae_sha256:
        problems.append(f"{path.name}: of another SAE than the one in sae/")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{path.name}: it holds no evaluations")
        return {}
    return {
        name: entry
        for name, entry in found.items()
        if isinstance(entry, dict) and isinstance(entry.get("metrics"), dict)
    }


def _latest(path: Path, problems: list[str]) -> dict[str, Any]:
    """The newest value of every name in `metrics.jsonl`; lines cut short by a kill are passed over."""
    latest: dict[str, Any] = {}
    try:
        for line in _lines(path):
            latest |= line
    except OSError as error:
        problems.append(f"{path.name}: {_refused(error)}")
    return latest


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict):
                yield line


def _deployed(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Held-out numbers of the inference form."""
    heldout = summary.get("heldout")
    found = heldout.get("inference") if isinstance(heldout, dict) else {}
    return found if isinstance(found, dict) else {}


def _while_training(lines: Mapping[str, Any]) -> dict[str, float]:
    batch = {"l0": lines.get("metrics/l0")}
    return finite_numbers(batch | {n.removeprefix("heldout/"): v for n, v in lines.items() if n.startswith("heldout/")})


def finite_numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """What of an object is a finite number."""
    return {name: kept for name, value in found.items() if (kept := finite(value)) is not None}


def finite(value: Any) -> float | None:
    """A finite number, or None for whatever else a file may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def _written(place: RunDirectory) -> float:
    """When a file that says how the run does was last written; of the directory where there is none."""
    files = (place.eval, place.summary, place.metrics, place.config)
    times = [path.stat().st_mtime for path in files if path.exists()]
    return max(times, default=place.path.stat().st_mtime)
