"""Affine pre-activations of many tokens and latents: what rules are calibrated on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK_TOKENS = 2048


@dataclass(frozen=True, eq=False)
class PreActivations:
    """`x weight^T + bias` of many tokens, a part at a time and without a gradient.

    Attributes:
        x: `[tok, d]`; weight: `[lat, d]`; bias: `[lat]`.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def n_tokens(self) -> int:
        return self.x.shape[0]

    @torch.no_grad()
    def of(self, latents: Tensor) -> Tensor:
        """`[len(latents), tok]`: a latent a row."""
        return torch.addmm(self.bias[latents, None], self.weight[latents], self.x.T)

    def by_tokens(self) -> Iterator[Tensor]:
        """Blocks `[some tok, lat]`."""
        with torch.no_grad():
            for part in self.x.split(_BLOCK_TOKENS):
                yield torch.addmm(self.bias, part, self.weight.T)
