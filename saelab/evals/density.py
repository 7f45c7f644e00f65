"""How often each latent fires on held-out tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from saelab import metrics
from saelab.activations.loader import stored
from saelab.evals.base import Result, Subject

_CHUNK_TOKENS = 4096


@dataclass(frozen=True)
class Density:
    """Dead and dense fractions and the histogram of log10 density, at inference thresholds."""

    max_tokens: Annotated[int | None, "held-out tokens used (none: all that are stored)"] = None

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        total = min(self.max_tokens or 10**18, subject.store.n_tokens("heldout"))
        seen = metrics.Density(subject.sae.n_latents)
        for batch in stored(subject.store, "heldout", subject.hook):
            for x in batch.input[: total - seen.n_tokens].split(_CHUNK_TOKENS):
                code = subject.sae.encode(x.to(subject.sae.W_dec))
                seen.update(code.firing_counts(), code.n_tokens)
                subject.report(seen.n_tokens, total)
            if seen.n_tokens >= total:
                break
        return Result(seen.result(), seen.n_tokens, details={"histogram": seen.histogram()})
