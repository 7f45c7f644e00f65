"""`saelab store`: what a store of activations holds, and whether its files are what was written."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from saelab.cli.console import console, progress

if TYPE_CHECKING:
    from saelab.activations.inspection import Condition, Info

app = typer.Typer(help="Look at stored activations.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="A store's directory; `saelab cache` prints it.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]

_DAMAGED = 1
"""Exit code where a file is not what was written."""


@app.command()
def verify(directory: Directory, as_json: AsJson = False) -> None:
    """Compare every file with its size and sha256, and name each that is damaged. Exit code 1 where one is."""
    from saelab.activations import verify

    with progress("verify") as report:
        found = verify(directory, report=report)
    if as_json:
        typer.echo(json.dumps({"directory": str(directory), "whole": not found.damaged, **asdict(found)}, indent=2))
    else:
        _explain(directory, found)
    if found.damaged:
        raise typer.Exit(_DAMAGED)


@app.command()
def info(directory: Directory, as_json: AsJson = False) -> None:
    """Say what a store holds, or how far an unfinished one is."""
    from saelab.activations import info

    found = info(directory)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        console().print(table(found))


def _explain(directory: Path, found: Condition) -> None:
    from saelab.activations.room import size_text
    from saelab.activations.store import REMAKE

    for damage in found.damaged:
        typer.echo(f"{damage.kind:<12}{directory / damage.file} {damage.detail}")
    for name in found.extra:
        typer.echo(f"{'extra':<12}{directory / name} does not belong to the store")
    state = "" if found.complete else "; the store is not finished, the command that began it goes on with it"
    if found.damaged:
        typer.echo(f"{len(found.damaged)} of {found.files} files are damaged{state}")
        typer.echo(f"  fix: {REMAKE}" if found.complete else "  fix: run the command that began it again")
    else:
        typer.echo(f"whole: {found.files} files, {size_text(found.bytes)}{state}")


def table(found: Info) -> Table:
    """What a store holds, for a person."""
    from saelab.activations.room import size_text

    out = Table(box=None, pad_edge=False, show_header=False)
    out.add_column(style="bold")
    out.add_column(overflow="fold")
    out.add_row("store", escape(found.directory))
    out.add_row("state", "complete" if found.complete else "not finished: the command that began it goes on with it")
    for split, side in found.splits.items():
        wanted = f" of {side.wanted_tokens:,}" if side.wanted_tokens and not found.complete else ""
        out.add_row(split, f"{side.tokens:,}{wanted} tokens, {side.contexts:,} contexts, shards: {side.shards:,}")
    hooks = (f"{name} {shape}" if shape else name for name, shape in found.hooks.items())
    out.add_row("hooks", escape(", ".join(hooks) or "not known yet"))
    out.add_row("dtype", f"{found.dtype or 'not known yet'}{', with loss_grad' if found.loss_grad else ''}")
    for part in ("model", "data", "windows", "mask"):
        if part in found.content:
            out.add_row(part, escape(_flat(found.content[part])))
    out.add_row("size", size_text(found.bytes))
    out.add_row("content", found.content_sha256)
    if found.created_by:
        out.add_row("made by", f"saelab {found.created_by}")
    return out


def _flat(settings: dict[str, Any]) -> str:
    shown = {key: ", ".join(value) if isinstance(value, dict) else value for key, value in settings.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items())
