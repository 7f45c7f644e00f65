"""`saelab bench`: what the variants find where the truth is known."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from saelab.bench.planted import Row

app = typer.Typer(help="Measure saelab itself.", no_args_is_help=True)

_PIPE_WIDTH = 160
_COLUMNS = {
    "l0": ("L0", ".2f"),
    "fvu": ("FVU", ".3f"),
    "mcc": ("MCC", ".3f"),
    "untrained_mcc": ("untrained", ".3f"),
    "recovered": ("recovered", ".3f"),
    "support_f1": ("support F1", ".3f"),
    "dead": ("dead", ".3f"),
}


@app.callback()
def _group() -> None:
    """Keeps `planted` a command of its own while it is the only one."""


@app.command()
def planted(
    only: Annotated[list[str] | None, typer.Option(help="A variant; repeatable. All of them if none is named.")] = None,
    world: Annotated[list[str] | None, typer.Option(help="A world; repeatable. All of them if none is named.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds: of features, weights and tokens.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, with the values of every seed.")] = False,
) -> None:
    """Train every variant on worlds with known features; say what each one finds of them."""
    from saelab.bench.planted import run
    from saelab.cli.console import Reporter

    reporter = Reporter(Console(stderr=True))
    with reporter.stage("planted", 1) as stage:

        def report(done: int, total: int, note: str) -> None:
            stage.update(done, note, total)

        rows = list(run(kinds=only or (), worlds=world or (), seeds=seeds, steps=steps, report=report))
    if as_json:
        document = {"seeds": seeds, "steps": steps, "rows": [row.document() for row in rows]}
        typer.echo(json.dumps(document, indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    console.print(table(rows, f"medians of {seeds} seeds; {steps:,} steps; inference form"))


def table(rows: list[Row], caption: str) -> Table:
    """Rows grouped by world."""
    shown = Table(title="Planted worlds", caption=caption)
    shown.add_column("world", no_wrap=True)
    shown.add_column("dictionary", no_wrap=True)
    for heading, _ in _COLUMNS.values():
        shown.add_column(heading, justify="right")
    shown.add_column("besides")
    previous = None
    for row in rows:
        if row.world != previous:
            shown.add_section()
        cells = [format(row.median(m), form) if m in row.metrics else "" for m, (_, form) in _COLUMNS.items()]
        shown.add_row(row.world if row.world != previous else "", row.name, *cells, row.refused or _besides(row))
        previous = row.world
    return shown


def _besides(row: Row) -> str:
    """What only this world measures."""
    own = [metric for metric in row.metrics if metric not in _COLUMNS]
    return ", ".join(f"{metric} {row.median(metric):.4f}" for metric in own)
