"""What goes into a coder (`Seen`) and what comes out: a `SparseCode`, and what else losses may ask for (`Encoding`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saelab.kernels import Support, latent_sum


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch as a coder sees it.

    Attributes:
        x: `[tok, d_in]`, minus the decoder's bias where the coder asks for that.
        centre: `[d_in]`, that bias, where it alone gives `x` a gradient: encoders then need no gradient per token.
        W_dec: `[lat, d_out]`, the decoder's rows: tied coders encode with them, some rules rank by them.
        side: what comes beside the activations, by name, one row a token: `loss_grad` `[tok, d_out]` is the
            gradient of the language model's summed loss with respect to what is reconstructed.
    """

    x: Tensor
    W_dec: Tensor
    side: Mapping[str, Tensor] = field(default_factory=dict)
    centre: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SparseCode:
    """A sparse `[tok, lat]` matrix of latent activations.

    Attributes:
        values: `[capacity]`, one activation per entry of `support`.
        support: which latents each token's entries belong to (`saelab.kernels.Support`).

    Invariants: a latent occurs at most once in a row. An entry may hold 0 (padding of a row with
    fewer than k positive latents); it then counts neither as active nor, unless a selection rule says
    otherwise, receives gradient. *Active* always means `value != 0`.
    """

    values: Tensor
    support: Support

    @classmethod
    def from_dense(cls, dense: Tensor) -> SparseCode:
        """The non-zero entries of a `[tok, lat]` matrix."""
        support = Support.from_mask(dense != 0)
        return cls(dense[support.rows, support.latents.long()], support)

    @property
    def latents(self) -> Tensor:
        """`[capacity]` int32."""
        return self.support.latents

    @property
    def offsets(self) -> Tensor:
        """`[tok + 1]` int32."""
        return self.support.offsets

    @property
    def n_latents(self) -> int:
        return self.support.n_latents

    @property
    def n_tokens(self) -> int:
        return self.support.n_tokens

    def to_dense(self) -> Tensor:
        """`[tok, lat]`: for small work and foreign tools."""
        dense = self.values.new_zeros(self.n_tokens, self.n_latents)
        nnz = self.support.nnz
        return dense.index_put((self.support.rows, self.latents[:nnz].long()), self.values[:nnz])

    @property
    def active(self) -> Tensor:
        """`[nnz]` bool: entries in use whose value is not 0."""
        return self.values[: self.support.nnz] != 0

    def l0(self) -> Tensor:
        """`[tok]` int64: active latents of each token."""
        return torch.bincount(self.support.rows[self.active], minlength=self.n_tokens)

    def firing_counts(self) -> Tensor:
        """`[lat]` int64: on how many tokens each latent is active."""
        return latent_sum((self.values != 0).float(), self.support).long()

    def with_values(self, values: Tensor) -> SparseCode:
        """Another value channel on the same support."""
        return SparseCode(values, self.support)

    def detach(self) -> SparseCode:
        return self.with_values(self.values.detach())

    def between(self, start: int, stop: int) -> SparseCode:
        """The entries of latents `start <= latent < stop`; latents keep their numbers."""
        nnz = self.support.nnz
        mask = (self.latents[:nnz] >= start) & (self.latents[:nnz] < stop)
        return SparseCode(self.values[:nnz][mask], self.support.keep(mask))


@dataclass(frozen=True, eq=False)
class Encoding:
    """A code, and what its coder provides beside it.

    Attributes:
        code: what is decoded.
        channels: by the names in the coder's `provides`, differentiable; each coder says their shapes.
    """

    code: SparseCode
    channels: Mapping[str, Tensor] = field(default_factory=dict)
