"""How well the SAE reconstructs held-out activations; formulas in `saelab.metrics.reconstruction`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from saelab import metrics
from saelab.activations.loader import stored
from saelab.evals.base import Result, Subject

_CHUNK_TOKENS = 4096


@dataclass(frozen=True)
class Reconstruction:
    """FVU, explained variance, MSE, cosine, shrinkage and L0 on held-out tokens, in raw units."""

    max_tokens: Annotated[int | None, "held-out tokens used (none: all that are stored)"] = None

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        total = min(self.max_tokens or 10**18, subject.store.n_tokens("heldout"))
        seen = metrics.Reconstruction()
        for batch in stored(subject.store, "heldout", subject.hook):
            for raw in batch.input[: total - seen.n_tokens].split(_CHUNK_TOKENS):
                x = raw.to(subject.sae.W_dec)
                code = subject.sae.encode(x)
                seen.update(x, subject.sae.decode(code), code.l0())
                subject.report(seen.n_tokens, total)
            if seen.n_tokens >= total:
                break
        return Result(seen.result(), seen.n_tokens)
