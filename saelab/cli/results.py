"""The end of a run: where everything is, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from saelab.cli.stages import Run

_SHOWN = (
    ("reconstruction", ("fvu", "l0", "cosine")),
    ("downstream", ("ce_clean_nats", "delta_ce_nats", "ce_score", "ce_score_mean", "kl_nats")),
    ("density", ("dead_frac", "dense_frac")),
)
"""Of each evaluator, what the terminal shows; the rest is in eval.json and the report."""


def explain(run: Run, document: dict[str, Any]) -> None:
    """Print the table of results and the places of the files."""
    console, evaluations = run.reporter.console, document["evaluations"]
    console.print()
    console.print(_usual(evaluations))
    others = [name for name in run.config.eval if name in evaluations and name not in dict(_SHOWN)]
    for name in others:
        for said in _overview(name, evaluations[name], whole=len(others) <= _FEW):
            console.print("", said, sep="\n", highlight=False)
    console.print()
    directory = run.directory
    for what, path in (
        ("the SAE, for SAE.load", directory.sae),
        ("all measurements", directory.eval),
        ("training curves", directory.metrics),
        ("the whole config", directory.config),
        ("the feature index", directory.index),
        ("the report", directory.report),
    ):
        if not path.exists():
            continue
        console.print(escape(f"{what:<24}{path}"), highlight=False, soft_wrap=True)
    if run.seconds:
        spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in run.seconds.items())
        run.reporter.say(f"{'time':<24}{spent}")
    if directory.index.exists():
        console.print(escape(f"\nsaelab browse {directory.path}"), style="bold", highlight=False, soft_wrap=True)


def _usual(evaluations: Mapping[str, Any]) -> Table | str:
    """What every run measures; nothing where nothing of it was measured."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (("metric", "left"), ("value", "right"), ("95 %", "left"), ("tokens", "right")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("what it is")
    for evaluator, metrics in _SHOWN:
        entry = evaluations.get(evaluator, {})
        for metric in (name for name in metrics if name in entry.get("metrics", {})):
            interval = _interval(entry.get("intervals", {}).get(metric))
            meaning = entry.get("meaning", {}).get(metric, "")
            table.add_row(metric, f"{entry['metrics'][metric]:.4f}", interval, f"{entry['n_tokens']:,}", meaning)
    return table if table.row_count else ""


_FEW = 4
"""As many evaluators at once show all their metrics; more of them would bury the rest."""


def _overview(name: str, entry: Mapping[str, Any], *, whole: bool) -> Iterator[Table | str]:
    """What an evaluator says: its metrics, where few were asked or there is no table; its first table; what it could
    not measure."""
    if entry["metrics"] and (whole or not entry.get("tables")):
        meanings, intervals = entry.get("meaning", {}), entry.get("intervals", {})
        yield _cells(
            name,
            ("metric", "value", "95 %", "what it is"),
            [
                (key, value, _interval(intervals.get(key)), meanings.get(key, ""))
                for key, value in entry["metrics"].items()
            ],
        )
    for first in entry.get("tables", ())[:1]:
        yield _cells(first["title"], first["columns"], first["rows"])
    for what, reason in entry.get("not_measurable", {}).items():
        yield escape(f"{what} is not measurable: {reason}")


def _interval(low_high: Sequence[float] | None) -> str:
    return f"{low_high[0]:.3f} .. {low_high[1]:.3f}" if low_high else ""


def _cells(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(escape(column))
    for row in rows:
        table.add_row(
            *("" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else escape(str(cell)) for cell in row)
        )
    return table
