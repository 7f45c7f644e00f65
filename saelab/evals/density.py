"""How often each latent fires on held-out tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from saelab import metrics
from saelab.evals.base import Result, Subject
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
        return Result(seen.result(), seen.n_tokens, details={"histogram": seen.histogram()})
