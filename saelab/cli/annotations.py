"""`saelab annotations`: labels, notes, bookmarks and lists, out of the file beside the runs and into it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from saelab.cli.console import console
from saelab.errors import SaelabError

if TYPE_CHECKING:
    from saelab.features.annotations import Annotation, Annotations

app = typer.Typer(help="What people wrote about features.", no_args_is_help=True)

Where = Annotated[Path, typer.Argument(help="a directory of runs, or one run", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]


class OnConflict(StrEnum):
    """Whose label and note stay where both are written and differ."""

    NEWER = "newer"
    KEEP = "keep"
    REPLACE = "replace"


@app.command(name="list")
def list_(where: Where = Path("runs"), as_json: AsJson = False) -> None:
    """List what is written about the features of one run, or of all in a directory."""
    annotations, found = _find(where)
    if as_json:
        typer.echo(json.dumps({"file": str(annotations.path), "annotations": [asdict(a) for a in found]}, indent=2))
    elif found:
        console().print(_table(found, _names(annotations)))
    else:
        typer.echo(f"nothing is written here ({annotations.path})")


@app.command(name="export")
def export_(
    file: Annotated[Path, typer.Argument(help="what to write: .csv or .jsonl")],
    where: Where = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Write annotations to a file that `saelab annotations import` reads back the same."""
    from saelab.features.annotation_files import save

    annotations, found = _find(where)
    save(found, file)
    if as_json:
        typer.echo(json.dumps({"file": str(file), "annotations": len(found)}))
    else:
        typer.echo(f"{len(found):,} annotations of {annotations.path} -> {file}")


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="a .csv or .jsonl file")],
    where: Where = Path("runs"),
    on_conflict: Annotated[
        OnConflict, typer.Option(help="whose label and note stay where both are written: the newer, ours, the file's")
    ] = OnConflict.NEWER,
    as_json: AsJson = False,
) -> None:
    """Take in a file's annotations, all or none. Lists and bookmarks add up, and an empty text never wins."""
    from saelab.features.annotation_files import load

    annotations, _ = _find(where)
    found = load(file)
    merged = annotations.merge(found, on_conflict.value)
    unknown = sum(a.sae not in _names(annotations) for a in found)
    if as_json:
        typer.echo(json.dumps({"file": str(annotations.path), **asdict(merged), "of_other_saes": unknown}))
        return
    said = f"{merged.added:,} added, {merged.changed:,} changed, {merged.unchanged:,} unchanged"
    typer.echo(f"{said} -> {annotations.path}")
    if unknown:
        typer.echo(f"note: {unknown:,} are of SAEs that no indexed run beside it has")


def _find(where: Path) -> tuple[Annotations, list[Annotation]]:
    """The file that `where` means, and what it holds: of one run's SAE, or of all."""
    from saelab.features.annotations import NAME, Annotations
    from saelab.features.bundle import read_manifest
    from saelab.training.run_directory import RunDirectory

    run = RunDirectory(where)
    if run.sae.exists() or run.index.exists():
        annotations = Annotations.beside(where)
        return annotations, list(annotations.labelled(read_manifest(run.index)["sae"]["sha256"]).values())
    if not where.is_dir():
        raise SaelabError("this directory does not exist", where=str(where), fix="name a run, or a directory of runs")
    annotations = Annotations(where / NAME)
    return annotations, annotations.all()


def _names(annotations: Annotations) -> dict[str, str]:
    """The names of the indexed runs beside the file, by their SAE's sha256."""
    from saelab.features.bundle import read_manifest, state
    from saelab.training.run_directory import RunDirectory

    names = {}
    for run in sorted(annotations.path.absolute().parent.iterdir()):
        index = RunDirectory(run).index
        if state(index) == "complete":
            names[read_manifest(index)["sae"]["sha256"]] = run.name
    return names


def _table(found: Sequence[Annotation], names: dict[str, str]) -> Table:
    from saelab.features.render import shown

    several = len(Counter(a.sae for a in found)) > 1
    out = Table(box=None, pad_edge=False)
    for column in (["SAE"] if several else []) + ["latent", "label", "note", "lists", ""]:
        out.add_column(column, justify="right" if column == "latent" else "left", overflow="fold")
    for a in found:
        texts = [shown(a.label, 200), shown(a.note, 60), shown(", ".join(a.lists), 100), "★" if a.bookmarked else ""]
        name = [names.get(a.sae, a.sae[:8])] if several else []
        out.add_row(*(escape(cell) for cell in [*name, str(a.latent), *texts]))
    return out
