"""What a loss term is, and what it sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from saelab.registry import Registry
from saelab.sae import SAE, SparseCode
from saelab.sae.code import Encoding, Seen


@dataclass(frozen=True, eq=False)
class Pass:
    """One SAE over one batch, in training units: what a loss term sees.

    Attributes:
        seen: the batch as the coder saw it; where there is a skip connection, `seen.x` is what it reads.
        target: `[tok, d_out]` (the input itself for an autoencoder).
        encoding: what the coder made of it.
        recon: `[tok, d_out]`.
        dead: `[lat]` bool, latents that have not been active for a while.
        progress: fraction of training done, in [0, 1].
    """

    sae: SAE
    seen: Seen
    target: Tensor
    encoding: Encoding
    recon: Tensor
    dead: Tensor
    progress: float = 0.0

    @property
    def code(self) -> SparseCode:
        return self.encoding.code

    @property
    def channels(self) -> Mapping[str, Tensor]:
        return self.encoding.channels

    @property
    def n_tokens(self) -> int:
        """At least 1, to divide by."""
        return max(self.target.shape[0], 1)


class Term(nn.Module):
    """One loss term: `forward(p)` is a scalar. What it remembers between steps goes into buffers, which are
    saved with checkpoints.

    Sums over latents or model dimensions, means over tokens, unless a term says otherwise: coefficients
    mean nothing without that.

    Attributes:
        requires: names of the channels that the coder has to provide.
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    def forward(self, p: Pass) -> Tensor:
        raise NotImplementedError


TERMS: Registry[Callable[..., Term]] = Registry("loss term")


def variance(target: Tensor) -> Tensor:
    """Summed squared deviation from the batch's mean; at least the rounding error of the summed squares, so that what
    is divided by it stays finite for a single token, or several that are alike."""
    deviation = target - target.mean(0, keepdim=True) if target.shape[0] else target
    rounding = torch.finfo(target.dtype).eps * target.square().sum().clamp_min(1.0)
    return torch.maximum(deviation.square().sum(), rounding)


def normalised(target: Tensor, recon: Tensor) -> Tensor:
    """`sum ||x - recon||^2 / sum ||x - mean(x)||^2` over the batch."""
    return (target - recon).square().sum() / variance(target)
