"""`saelab runs`: a table of the runs below some directories, finished or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from saelab.config.document import read_document
from saelab.errors import SaelabError, SettingError, did_you_mean
from saelab.evals.records import FOREIGN, Found, Plan, RunRecord, find_runs, read_run
from saelab.training.run_directory import RunDirectory

_NAMED = 6
"""Foreign directories that are named; of more, the number."""


@dataclass(frozen=True)
class Listing:
    """Runs by the names they are listed under, and a line on each thing that could not be listed or read in full."""

    runs: dict[str, RunRecord]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"runs": [{"name": name, **run.document()} for name, run in self.runs.items()], "notes": self.notes}


# -- reading ------------------------------------------------------------------------------------------


def list_runs(roots: Sequence[Path]) -> Listing:
    """Every run below `roots`, named by its path below its root (with the root, where there are several).

    Raises:
        SaelabError: a root is not a directory.
    """
    runs: dict[str, RunRecord] = {}
    notes: list[str] = []
    for root in roots:
        found = find_runs(root)
        notes += _passed_over(found)
        for path in found.runs:
            try:
                record = planned(path)
            except SaelabError as error:
                notes.append(str(error))
                continue
            runs[str(path.relative_to(root) if len(roots) == 1 and path != root else path)] = record
            notes += [f"{path}: {problem}" for problem in record.problems]
    return Listing(runs, tuple(notes))


def _passed_over(found: Found) -> list[str]:
    """A line on all foreign directories together, and one on each that could not be read."""
    foreign = [str(path) for path, why in found.others.items() if why == FOREIGN]
    named = ", ".join(foreign[:_NAMED]) + (f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else "")
    refused = [f"{path}: {why}" for path, why in found.others.items() if why != FOREIGN]
    return ([f"{FOREIGN} in {named}"] if foreign else []) + refused


def planned(path: Path) -> RunRecord:
    """The run in `path`, with what its config says of it.

    Raises:
        SaelabError: it cannot be read, or its config is another tool's.
    """
    config, problem = read_config(path)
    if problem is None:
        return read_run(path, plan(config))
    record = read_run(path)
    return replace(record, problems=(problem, *record.problems))


def read_config(path: Path) -> tuple[Mapping[str, Any], str | None]:
    """The config of the run in `path` as it stands there, unchecked; where it cannot be read, nothing and the reason.

    Raises:
        SaelabError: it is another tool's.
    """
    config = RunDirectory(path).config
    try:
        data = read_document(config.read_text(encoding="utf-8"), config.name).data
    except (OSError, UnicodeDecodeError, SaelabError) as error:
        said = error.message if isinstance(error, SaelabError) else str(error)
        return {}, f"{config.name}: {said}"
    if not isinstance(data, dict) or not isinstance(data.get("sae"), dict):
        raise SaelabError(f"its {config.name} is not a run's", where=str(path))
    return data, None


def plan(config: Mapping[str, Any]) -> Plan:
    """What a config sets out to do. It may be an older version's: whatever is not as expected is left open."""
    sae, train, evaluators = (_mapping(config.get(key)) for key in ("sae", "train", "eval"))
    tokens, batch, seed = (train.get(key) for key in ("tokens", "batch_tokens", "seed"))
    whole = tokens // batch * batch if isinstance(tokens, int) and isinstance(batch, int) and batch > 0 else None
    return Plan(
        kind=str(sae.get("kind")),
        settings={key: value for key, value in sae.items() if key != "kind"},
        tokens=whole,
        evaluators=tuple(evaluators),
        seed=seed if isinstance(seed, int) else None,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


# -- showing ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column: what it is called, what is in it, what to sort by, and whether the largest comes first."""

    heading: str
    text: Callable[[RunRecord], str]
    key: Callable[[RunRecord], Any]
    largest_first: bool = False
    justify: Any = "right"


def _metric(heading: str, name: str, form: str, *, largest_first: bool = False) -> Column:
    def text(run: RunRecord) -> str:
        value = run.value(name)
        return "-" if value is None else f"{'' if name in run.metrics else '~'}{value:{form}}"

    return Column(heading, text, lambda run: run.value(name), largest_first)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


_STATES = ("failed", "training", "trained", "evaluated")

COLUMNS: dict[str, Column] = {
    "kind": Column("kind", lambda run: run.kind or "-", lambda run: run.kind, justify="left"),
    "n_latents": Column(
        "latents", lambda run: _count(run.settings.get("n_latents")), lambda run: run.settings.get("n_latents")
    ),
    "target": Column("target", lambda run: run.target or "-", lambda run: run.target, justify="left"),
    "state": Column(
        "state", lambda run: run.standing, lambda run: (_STATES.index(run.state), run.progress or 0.0), justify="left"
    ),
    "tokens": Column("tokens", lambda run: _count(run.tokens), lambda run: run.tokens, largest_first=True),
    "fvu": _metric("FVU", "fvu", ".4f"),
    "l0": _metric("L0", "l0", ".1f"),
    "ce_score": _metric("CE score", "ce_score", ".4f", largest_first=True),
    "dead_frac": _metric("dead", "dead_frac", ".2%"),
    "tokens_per_second": Column(
        "tokens/s", lambda run: _count(run.tokens_per_second), lambda run: run.tokens_per_second, largest_first=True
    ),
    "written": Column(
        "last written",
        lambda run: datetime.fromtimestamp(run.written).strftime("%Y-%m-%d %H:%M"),
        lambda run: run.written,
        largest_first=True,
    ),
}
"""By the names that `--sort` takes, besides `name`."""


def ordered(listing: Listing, by: str) -> Listing:
    """The same runs, the best or newest first where that has a meaning; those without a value come last.

    Raises:
        SettingError: there is no such column.
    """
    if by == "name":
        return replace(listing, runs=dict(sorted(listing.runs.items())))
    if by not in COLUMNS:
        raise SettingError("--sort", f"there is no column '{by}'", fix=did_you_mean(by, ["name", *COLUMNS]))
    column = COLUMNS[by]
    known = [item for item in listing.runs.items() if column.key(item[1]) is not None]
    known.sort(key=lambda item: column.key(item[1]), reverse=column.largest_first)
    return replace(listing, runs=dict(known) | listing.runs)


def table(listing: Listing) -> Table:
    """A row for each run."""
    provisional = any(not run.metrics and run.heldout for run in listing.runs.values())
    shown = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        caption="~ on the few held-out tokens that training looks at; `saelab eval` measures the rest"
        if provisional
        else None,
        caption_justify="left",
    )
    shown.add_column("run", overflow="fold")
    for column in COLUMNS.values():
        shown.add_column(column.heading, justify=column.justify, no_wrap=True)
    for name, run in listing.runs.items():
        shown.add_row(escape(name), *(escape(column.text(run)) for column in COLUMNS.values()))
    return shown
