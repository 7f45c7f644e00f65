"""`saelab export`: what other tools and people take.

`saelab export RUN DIR --format ...` writes the SAE, and is short for `saelab export sae`; `saelab export features`
writes what is known of its latents.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from saelab.cli.console import progress
from saelab.errors import SaelabError

if TYPE_CHECKING:
    from saelab.features.annotations import Annotations
    from saelab.features.bundle import Bundle
    from saelab.features.exports import Report, Selection


class _SaeUnlessSaid(TyperGroup):
    """`export RUN DIR` is `export sae RUN DIR`; a run that is called like a command needs the long form."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["sae", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Write the SAE, or its features, in forms that others read.", cls=_SaeUnlessSaid, no_args_is_help=True
)


@app.command()
def sae(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's directory, or an SAE that saelab can load")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="the directory to make", show_default=False)],
    format: Annotated[str, typer.Option(help="saelens, sparsify or dictionary_learning", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Write a run's SAE as another tool would have: its inference form, on raw activations.

    `saelab export RUN DIR --format ...` is short for this.
    """
    from saelab import interop
    from saelab.sae import SAE
    from saelab.training.run_directory import RunDirectory

    place = RunDirectory(Path(run))
    if place.config.exists() and not place.finished:
        raise SaelabError("this run has no trained SAE yet", where=run, fix="saelab train")
    loaded = SAE.load(place.sae if place.finished else run)
    interop.export(loaded, out, format)
    if as_json:
        typer.echo(json.dumps({"path": str(out), "format": format, "sae_sha256": loaded.sha256()}))
    else:
        typer.echo(f"{loaded.identity.kind}, {loaded.n_latents:,} latents -> {out}")


class Format(StrEnum):
    """What `saelab export features` writes."""

    NEURONPEDIA = "neuronpedia"
    HTML = "html"
    PARQUET = "parquet"


@app.command()
def features(
    run: Annotated[Path, typer.Argument(help="a run's directory, such as runs/demo", show_default=False)],
    format: Annotated[Format, typer.Option(help="neuronpedia: its import layout; html: one page; parquet: two tables")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the directory to write into", show_default=False)],
    latents: Annotated[str | None, typer.Option(help="these, such as 1,5,20-29")] = None,
    list_: Annotated[str | None, typer.Option("--list", help="those on a list")] = None,
    bookmarked: Annotated[bool, typer.Option("--bookmarked", help="those with a bookmark")] = False,
    top: Annotated[int | None, typer.Option(min=1, help="this many, by largest absolute activation")] = None,
    source_set: Annotated[str | None, typer.Option(help="neuronpedia: the source set's id (the run's name)")] = None,
    model_id: Annotated[str | None, typer.Option(help="neuronpedia: the model's id (its name)")] = None,
    creator: Annotated[str | None, typer.Option(help="neuronpedia: a user's id (a fresh installation's own)")] = None,
    vectors: Annotated[bool, typer.Option(help="neuronpedia: decoder rows too, for steering")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")] = False,
) -> None:
    """Write a run's features, all or some, with their labels and notes."""
    from saelab.features.annotations import Annotations
    from saelab.features.bundle import Bundle
    from saelab.features.exports import Selection, neuronpedia, page, parquet
    from saelab.training.run_directory import RunDirectory

    if not run.is_dir():
        raise SaelabError("this run does not exist", where=str(run), fix="saelab runs lists those there are")
    bundle, annotations = Bundle(RunDirectory(run).index), Annotations.beside(run)
    chosen = Selection.of(bundle, annotations, _chosen(bundle, annotations, latents, list_, bookmarked, top))

    def to_neuronpedia(report: Report) -> list[Path]:
        source = neuronpedia.source_of(bundle, source_set or run.absolute().name, model_id, creator)
        rows = _decoder(RunDirectory(run), bundle) if vectors else None
        return [neuronpedia.write(chosen, source, out, rows, report)]

    def to_page(report: Report) -> list[Path]:
        return [page.write(chosen, out / "features.html", report)]

    def to_tables(report: Report) -> list[Path]:
        return parquet.write(chosen, out, report)

    writers = {Format.NEURONPEDIA: to_neuronpedia, Format.HTML: to_page, Format.PARQUET: to_tables}
    with progress("export") as report:
        paths = writers[format](report)
    _say(chosen, paths, as_json)


def _say(chosen: Selection, paths: list[Path], as_json: bool) -> None:
    written = sum(latent in chosen.annotations for latent in chosen.latents)
    if as_json:
        typer.echo(
            json.dumps({"paths": [str(p) for p in paths], "features": len(chosen.latents), "annotated": written})
        )
        return
    typer.echo(f"{len(chosen.latents):,} features, {written:,} of them annotated")
    for path in paths:
        typer.echo(f"  -> {path}")


def _chosen(
    bundle: Bundle, annotations: Annotations, latents: str | None, name: str | None, marked: bool, top: int | None
) -> list[int] | None:
    """None where nothing says which: all."""
    from saelab.features.exports import selection

    said = [
        option
        for option, given in (("--latents", latents), ("--list", name), ("--bookmarked", marked), ("--top", top))
        if given not in (None, False)
    ]
    if len(said) > 1:
        raise SaelabError(f"{' and '.join(said)} each say which features to take", fix="give one of them")
    if latents is not None:
        return _numbers(latents)
    if name is not None:
        return selection.on_list(bundle, annotations, name)
    if marked:
        return selection.bookmarked(bundle, annotations)
    return None if top is None else selection.strongest(bundle, top)


def _numbers(text: str) -> list[int]:
    """`1,5,20-29` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        matched = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        if not matched:
            fix = "numbers and ranges with commas between them, such as 1,5,20-29"
            raise SaelabError(f"not a latent's number: {part!r}", where="--latents", fix=fix)
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if last < first or last - first > 2**24:
            raise SaelabError(f"not a range: {part!r}", where="--latents", fix="the smaller number first")
        found += range(first, last + 1)
    return found


def _decoder(run: Any, bundle: Bundle) -> Any:
    """`[latents, d]`, the decoder's rows of the SAE that was indexed."""
    from saelab.sae import SAE

    sae = SAE.load(run.sae)
    if sae.sha256() != bundle.sae_sha256:
        fix = "saelab index RUN --again, or --no-vectors"
        raise SaelabError("the index is of another SAE than the one that is here", where=str(run.sae), fix=fix)
    return sae.W_dec.detach().float().numpy()
