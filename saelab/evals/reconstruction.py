"""How well the SAE reconstructs held-out activations; formulas in `saelab.metrics.reconstruction`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from saelab import metrics
from saelab.evals.base import Result, Subject
from saelab.evals.heldout import check_max_tokens, heldout


@dataclass(frozen=True)
class Reconstruction:
    """FVU, explained variance, MSE, cosine, shrinkage and L0 on held-out tokens, in raw units,
    of the target where the SAE is a transcoder."""

    max_tokens: Annotated[int | None, "held-out tokens used (none: all that are stored)"] = None

    def __post_init__(self) -> None:
        check_max_tokens(self.max_tokens)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        seen = metrics.Reconstruction()
        for batch in heldout(subject, self.max_tokens):
            code = subject.sae.encode(batch.input)
            seen.update(batch.target, subject.sae.reconstruct(batch.input, code), code.l0())
        return Result(seen.result(), seen.n_tokens)
