"""What latents fire on, in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saelab.circuits import FeatureScores
from saelab.evals.base import Chart
from saelab.evals.report.features import card
from saelab.evals.report.measured import Cell
from saelab.evals.report.words import said
from saelab.features import Bundle, charts, render
from saelab.features.annotations import Annotations
from saelab.features.exports.selection import Selection
from saelab.features.live import Live
from saelab.features.prompt import Trace, trace
from saelab.features.search import Vocabulary, by_token
from saelab.features.steer import Steering
from saelab.notebook.picture import Picture, chart
from saelab.notebook.written import Written, style, table


def latents(bundle: Bundle, chosen: Sequence[int], run: Path | None = None) -> Written:
    """Some latents of an index: what each fires on and promotes, and its strongest contexts.

    Args:
        run: whose labels are shown too.
    """
    annotations = Annotations.beside(run or bundle.directory.parent)
    selection = Selection.of(bundle, annotations, chosen)
    cards = "".join(card(selection, latent) for latent in selection.latents)
    plain = "\n".join(f"latent {latent}: {', '.join(_fires_on(bundle, latent))}" for latent in selection.latents)
    return Written(_styled(f'<div class="sl-latents">{cards}</div>'), plain)


def reading(live: Live, texts: Sequence[str], chosen: Sequence[int]) -> Written:
    """Where in some texts each of some latents is active: the deeper the colour, the stronger."""
    traces = [trace(live, text) for text in texts]
    parts, plain = [], []
    for latent in chosen:
        along = [one.along(latent) for one in traces]
        scale = max(float(np.abs(values).max()) for values in along)
        marked = (_marked(one, values, scale) for one, values in zip(traces, along, strict=True))
        parts.append(f"<h3>Latent {latent}</h3>{''.join(marked)}")
        strength = (
            f"  {float(np.abs(values).max()):.3g}: {render.shown(text)}"
            for text, values in zip(texts, along, strict=True)
        )
        plain += [f"latent {latent}", *strength]
    return Written(_styled(f'<div class="sl-reading">{"".join(parts)}</div>'), "\n".join(plain))


def _marked(one: Trace, values: NDArray[np.float32], scale: float) -> str:
    """A text with a latent's activations, without a BOS that the SAE does not read."""
    first = int(one.masked[0])
    active = {i - first: float(value) for i, value in enumerate(values) if value}
    return render.highlighted(one.texts[first:], active, scale=scale)


def firing_on(bundle: Bundle, word: str) -> int:
    """The latent the greatest share of whose activation is on one word."""
    shares = by_token(bundle, Vocabulary(bundle.vocabulary).find(word).ids, "fires")
    return int(np.nan_to_num(shares, nan=-1.0).argmax())


def steering(found: Steering, n: int = 6) -> Written:
    """Which next tokens an intervention makes likelier, and which less."""
    shifts = [*found.risers[:n], *reversed(found.fallers[:n])]
    rows = [[shift.text, f"{shift.before:.3f}", f"{shift.after:.3f}", f"{shift.change:+.3f}"] for shift in shifts]
    return table(["next token", "before", "after", "change"], rows)


def parts(found: FeatureScores) -> Written:
    """What the whole activation, all latents, the SAE's error and what it does not read are estimated to carry."""
    rows: list[list[Cell]] = [
        ["the whole activation", found.total],
        ["all latents together", float(found.latents.sum())],
        ["the SAE's error", found.error],
        ["positions that the SAE does not read", found.masked],
    ]
    return table(["part", "estimated loss of score where it is patched"], rows)


def losses(found: FeatureScores, chosen: Sequence[int], exact: Tensor) -> Picture:
    """What some latents are estimated to carry, and what they do, `[latent]`; with the SAE's error."""
    names = [f"latent {latent}" for latent in chosen]
    estimated = [[name, float(found.latents[latent])] for name, latent in zip(names, chosen, strict=True)]
    series = {
        "estimated": [*estimated, ["the SAE's error", found.error]],
        "exact": [[name, float(loss)] for name, loss in zip(names, exact, strict=True)],
    }
    return chart(Chart("Loss of score where it is patched", "latent", "loss of score", series, "bars"))


def feeding(chosen: Sequence[int], heads: Sequence[tuple[int, int]], fed: Tensor, n: int = 3) -> Written:
    """The heads that some latents get most from, of `fed`, `[head, latent]`."""
    rows: list[list[Cell]] = []
    for latent, column in zip(chosen, fed.T.tolist(), strict=True):
        most = sorted(zip(column, heads, strict=True), key=lambda pair: -abs(pair[0]))[:n]
        rows.append([f"latent {latent}", *(f"{layer}.{head}: {said(part, 2)}" for part, (layer, head) in most)])
    return table(["", "fed most by", *["then"] * (min(n, len(heads)) - 1)], rows)


def _fires_on(bundle: Bundle, latent: int) -> list[str]:
    return [repr(bundle.token(token)) for token, _ in bundle.feature(latent).fires_on[:6]]


def _styled(body: str) -> str:
    return f"<style>{render.STYLE}{charts.STYLE}{style()}</style>{body}"
