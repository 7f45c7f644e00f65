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
        return Result(seen.result(), seen.n_tokens, meaning=_MEANING)


_MEANING = {
    "fvu": "share of the activations' variance not reconstructed (0 is perfect)",
    "explained_variance": "1 - FVU (1 is perfect)",
    "mse": "mean squared error of a coordinate (0 is perfect)",
    "nmse": "squared error over the activations' squared norm, their mean included (0 is perfect)",
    "cosine": "mean cosine between activation and reconstruction (1 is perfect)",
    "shrinkage": "what the reconstructions would have to be divided by; below 1 they are too short (1 is best)",
    "l0": "latents active per token (fewer is sparser)",
    "l0_std": "standard deviation of that over tokens",
}
