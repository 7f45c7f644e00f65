"""`SparseCode`: what an encoder says about each token, in CSR form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.kernels import Support


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
        return torch.bincount(self.latents[: self.support.nnz][self.active], minlength=self.n_latents)

    def with_values(self, values: Tensor) -> SparseCode:
        """Another value channel on the same support."""
        return SparseCode(values, self.support)

    def detach(self) -> SparseCode:
        return self.with_values(self.values.detach())
