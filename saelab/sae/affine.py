"""Affine pre-activations of many tokens and latents, and the memory they are computed in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK_TOKENS = 2048


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x weight^T + bias` `[tok, lat]` without a gradient, valid until this thread's next call."""
    block = _SCRATCH.take(x.shape[0], weight.shape[0], like=x)
    return torch.addmm(bias, x, weight.T, out=block)


class _Scratch(threading.local):
    """Memory for one large block per thread, used again and again: fresh pages for a block this large cost
    a third of the matrix product that fills it (measured at 1,024 x 8,192 on a CPU)."""

    block: Tensor | None = None

    def take(self, *shape: int, like: Tensor) -> Tensor:
        block = self.block
        if block is None or block.shape != shape or block.dtype != like.dtype or block.device != like.device:
            with torch.inference_mode(False):  # the block outlives the mode that it is first asked for in
                block = self.block = torch.empty(shape, dtype=like.dtype, device=like.device)
        return block


_SCRATCH = _Scratch()
"""Shared by all coders: its content means nothing between two calls."""


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
        """Blocks `[some tok, lat]`; one is valid until the next."""
        with torch.no_grad():
            for part in self.x.split(_BLOCK_TOKENS):
                yield affine(part, self.weight, self.bias)
