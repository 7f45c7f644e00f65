"""How often each latent fires on held-out tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, pairwise
from typing import Annotated

import torch

from saelab import metrics
from saelab.evals.base import Chart, Result, Subject
from saelab.evals.heldout import check_max_tokens, heldout


@dataclass(frozen=True)
class Density:
    """Dead and dense fractions and the histogram of log10 density, at inference thresholds."""

    max_tokens: Annotated[int | None, "held-out tokens used (none: all that are stored)"] = None

    def __post_init__(self) -> None:
        check_max_tokens(self.max_tokens)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        seen = metrics.Density(subject.sae.n_latents)
        for batch in heldout(subject, self.max_tokens):
            seen.update(subject.sae.encode(batch.input).firing_counts(), batch.input.shape[0])
        histogram = seen.histogram()
        return Result(
            seen.result(),
            seen.n_tokens,
            meaning=_MEANING,
            charts=[_chart(histogram, subject.sae.n_latents)],
            details={"histogram": histogram},
        )


_MEANING = {
    "dead_frac": "share of latents that never fired on these tokens (0 is best)",
    "dense_frac": "share of latents that fire on more than a tenth of the tokens",
    "median_density": "share of tokens on which a latent fires: the median of those that fired at all",
}


def _chart(histogram: Mapping[str, Sequence[float]], n_latents: int) -> Chart:
    """Bars from the rarest latents there are to the densest; first those that never fired."""
    edges, heights = histogram["log10_density_edges"], histogram["latents"]
    bins = [
        [f"{10**low:.1g}–{10**high:.1g}", height] for (low, high), height in zip(pairwise(edges), heights, strict=True)
    ]
    shown = list(dropwhile(lambda one: not one[1], bins))
    return Chart(
        "Density of latents",
        "share of tokens on which a latent is active",
        "latents",
        {"latents": [["never", n_latents - sum(heights)], *shown]},
        kind="bars",
        caption="How often latents fire; each bar spans half a decade.",
    )
