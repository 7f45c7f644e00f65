"""Latents as examples: what each fires on, in its strongest contexts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saelab.errors import SaelabError
from saelab.evals.report.pieces import note, paragraph
from saelab.evals.report.run import Run
from saelab.evals.report.words import count
from saelab.features import Bundle, charts, render
from saelab.features.annotations import Annotation, Annotations
from saelab.features.bundle import Example
from saelab.features.exports import Selection
from saelab.features.render import number, text

_SHOWN, _WRITTEN = 12, 6
"""Latents on the page; of them, at most, those about which something is written."""
_CONTEXTS, _AROUND, _TOKENS = 3, 14, 6


def features(run: Run) -> str:
    """The section's body."""
    if run.bundle is None:
        return note(f"No example features: {run.no_bundle}.", f"saelab index {run.path}" if run.sae else "")
    try:
        return _examples(run.path, run.bundle)
    except SaelabError as error:
        return note(f"No example features: {error.message}.", f"saelab index {run.path} --again")


def _examples(path: Path, bundle: Bundle) -> str:
    annotations = _annotations(path, bundle)
    written, spread = chosen(bundle, annotations)
    if not written and not spread:
        return paragraph("No latent fired on the text of the index.")
    selection = Selection.of(bundle, annotations, [*written, *spread])
    picked = [f"{count(len(written), 'latent')} about which something is written"] if written else []
    picked.append(f"{count(len(spread), 'latent')} spread evenly from the rarest to the densest, as they come")
    intro = (
        f"{' and '.join(picked)}. Each with the contexts in which it is strongest, of {bundle.n_tokens:,} tokens; the "
        "deeper the colour, the stronger it is, and the outlined token is the strongest."
    )
    cards = "".join(card(selection, latent) for latent in selection.latents)
    browse = f'<p class="dim">All {bundle.n_latents:,} latents: <code>saelab browse {text(str(path))}</code></p>'
    return f'{paragraph(intro)}<div class="features">{cards}</div>{browse}'


def _annotations(path: Path, bundle: Bundle) -> Annotations:
    """What is written beside the run; what cannot be read is not missed here."""
    found = Annotations.beside(path)
    try:
        found.labelled(bundle.sae_sha256)
    except SaelabError:
        return Annotations(path / "none.sqlite")
    return found


def chosen(bundle: Bundle, annotations: Annotations) -> tuple[list[int], list[int]]:
    """Latents with a label or a bookmark, in order, and latents evenly spread over the ranks of density."""
    known = annotations.labelled(bundle.sae_sha256)
    alive = {int(latent) for latent in np.flatnonzero(bundle.columns["count"] > 0)}
    written = [i for i, said in sorted(known.items()) if (said.label or said.bookmarked) and i in alive][:_WRITTEN]
    return written, spread(bundle, _SHOWN - len(written), without=written)


def spread(bundle: Bundle, n: int, without: Sequence[int] = ()) -> list[int]:
    """So many latents that fire at all, evenly spread from the rarest to the densest, as they come."""
    left_out = {*without, *np.flatnonzero(bundle.columns["count"] == 0).tolist()}
    known = [int(i) for i in np.argsort(bundle.density, kind="stable") if int(i) not in left_out]
    wanted = min(n, len(known))
    places = np.linspace(0, len(known) - 1, wanted + 2)[1:-1] if wanted < len(known) else range(wanted)
    return [known[round(float(place))] for place in places]


def card(selection: Selection, latent: int) -> str:
    """What one latent fires on, what it promotes, and its strongest contexts."""
    bundle = selection.bundle
    feature, said = bundle.feature(latent), selection.annotation(latent)
    title = "Tokens by activation, where it is active"
    histogram = charts.bars(feature.histogram, feature.min, feature.max, title=title)
    promotes = _tokens("promotes", [selection.token(i) for i, _ in feature.promoted[:_TOKENS]])
    fires = _tokens("fires on", [selection.token(i) for i, _ in feature.fires_on[:_TOKENS]])
    about = f"active on {number(100 * feature.density)} % of tokens, up to {number(feature.max)}"
    if bundle.signed:
        about += f", down to {number(feature.min)}"
    strongest = [example for example in bundle.examples(latent) if example.bin in (0, -1)]
    contexts = "".join(_context(selection, example, max(feature.max, -feature.min)) for example in _ends(strongest))
    head = (
        f'<div class="head"><div><h3>{_name(said, latent)}</h3><p class="dim">{text(about)}</p></div>{histogram}</div>'
    )
    return f"<article>{head}{fires}{promotes}<ol>{contexts}</ol></article>"


def _name(said: Annotation, latent: int) -> str:
    label = f" <bdi>{text(said.label, 200)}</bdi>" if said.label else ""
    return f"Latent {latent}{label}"


def _tokens(what: str, tokens: Sequence[str]) -> str:
    if not tokens:
        return ""
    shown = " ".join(f"<code><bdi>{text(token, 60)}</bdi></code>" for token in tokens)
    return f'<p class="tokens"><span class="dim">{what}</span> {shown}</p>'


def _ends(strongest: Sequence[Example]) -> list[Example]:
    """The strongest; where values are signed, one of those below 0 too."""
    above, below = ([one for one in strongest if one.bin == end] for end in (0, -1))
    return [*above[: _CONTEXTS - bool(below)], *below[: _CONTEXTS - min(len(above), _CONTEXTS - 1)]]


def _context(selection: Selection, example: Example, scale: float) -> str:
    tokens, _ = selection.shown(example)
    shown = render.highlighted(tokens, example.values, scale=scale, at=example.position, around=_AROUND)
    return f"<li>{shown}</li>"
