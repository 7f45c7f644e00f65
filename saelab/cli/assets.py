"""`saelab assets`: fetch and list the demo model and the demo text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from saelab.lm import assets

app = typer.Typer(help="Fetch and list the demo model and the demo text.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Which assets; all of them if none is named.")] = None,
    as_json: AsJson = False,
) -> None:
    """Download and convert assets; what is there already is left alone."""
    wanted = [assets.get(name) for name in names or assets.ASSETS]
    # Its own file, so that it keeps turning while a converter's progress bars are silenced.
    with Console(file=sys.stderr).status("") as status:
        for asset in wanted:
            place = assets.fetch(asset.name, say=status.update)
            if not as_json:
                typer.echo(f"{asset.name} is in {place}")
    if as_json:
        typer.echo(json.dumps([_describe(asset) for asset in wanted], indent=2))


@app.command("list")
def show(as_json: AsJson = False) -> None:
    """What there is to fetch, what is fetched, and where it is."""
    rows = [_describe(asset) for asset in assets.ASSETS.values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(Column("name", no_wrap=True), "kind", Column("what it is", overflow="fold"), "licence", "on disk")
    for row in rows:
        size = f"{row['size_bytes'] / 1e6:.0f} MB" if row["fetched"] else "not fetched"
        table.add_row(row["name"], row["kind"], row["title"], row["licence"], size)
    Console().print(table)
    typer.echo(f"kept in {assets.home()}")


def _describe(asset: assets.Asset) -> dict[str, Any]:
    place = assets.directory(asset.name)
    fetched = assets.is_fetched(asset.name)
    return {
        "name": asset.name,
        "kind": asset.kind,
        "title": asset.title,
        "licence": asset.licence,
        "attribution": asset.attribution,
        "fetched": fetched,
        "size_bytes": _size_bytes(place) if fetched else None,
        "path": str(place),
    }


def _size_bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir())
