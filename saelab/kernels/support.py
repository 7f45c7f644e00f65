"""Where a sparse code is non-zero: the CSR pattern that all three primitives share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Support:
    """The sparsity pattern of a `[tok, lat]` code, in CSR form over tokens.

    Attributes:
        latents: `[capacity]` int32, the latent of each entry, row after row.
        offsets: `[tok + 1]` int32; row b holds entries `offsets[b]:offsets[b + 1]`. Entries from
            `offsets[-1]` on are spare capacity: they belong to no row and every primitive ignores them.
        n_latents: width of the dense code.
        width: entries per row where that is the same for all rows (None: ragged).

    Invariants: a latent occurs at most once in a row; the order inside a row means nothing.
    """

    latents: Tensor
    offsets: Tensor
    n_latents: int
    width: int | None = None

    @classmethod
    def from_rows(cls, latents: Tensor, n_latents: int) -> Support:
        """From a `[tok, k]` table of latents: k entries in every row."""
        n_tokens, width = latents.shape
        offsets = torch.arange(n_tokens + 1, dtype=torch.int32, device=latents.device) * width
        return cls(latents.reshape(-1).to(torch.int32), offsets, n_latents, width)

    @classmethod
    def from_mask(cls, mask: Tensor) -> Support:
        """From a `[tok, lat]` boolean mask; latents ascend inside a row."""
        rows, latents = mask.nonzero(as_tuple=True)
        return cls.from_entries(rows, latents, *mask.shape)

    @classmethod
    def from_entries(cls, rows: Tensor, latents: Tensor, n_tokens: int, n_latents: int) -> Support:
        """From the rows `[nnz]`, ascending, and the latents `[nnz]` of the entries."""
        offsets = torch.zeros(n_tokens + 1, dtype=torch.int32, device=rows.device)
        offsets[1:] = torch.bincount(rows, minlength=n_tokens).cumsum(0)
        return cls(latents.to(torch.int32), offsets, n_latents)

    def keep(self, mask: Tensor) -> Support:
        """The entries where `mask` `[nnz]` holds, in the same order."""
        return Support.from_entries(self.rows[mask], self.latents[: self.nnz][mask], self.n_tokens, self.n_latents)

    @property
    def n_tokens(self) -> int:
        return self.offsets.numel() - 1

    @property
    def device(self) -> torch.device:
        return self.latents.device

    @cached_property
    def nnz(self) -> int:
        """Entries in use. For ragged rows on a GPU this waits for the device."""
        if self.width is not None:
            return self.n_tokens * self.width
        return int(self.offsets[-1])

    @cached_property
    def capacity_rows(self) -> Tensor:
        """`[capacity]` int64: the token of each entry, `tok` for spare capacity. Never waits for a GPU."""
        tokens = torch.arange(self.n_tokens + 1, device=self.device)
        spare = self.latents.numel() - self.offsets[-1:]
        lengths = torch.cat([self.offsets.diff(), spare]).long()
        return torch.repeat_interleave(tokens, lengths, output_size=self.latents.numel())

    @property
    def rows(self) -> Tensor:
        """`[nnz]` int64: the token of each entry in use."""
        return self.capacity_rows[: self.nnz]

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The transpose: entry numbers sorted by latent (`[capacity]`, stable, spare capacity last), and
        `[lat + 1]` bounds. Never waits for a GPU."""
        from saelab.kernels.dispatch import by_key

        latents = self.latents
        if self.width is None or latents.numel() != self.n_tokens * self.width:
            latents = latents.masked_fill(self.capacity_rows == self.n_tokens, self.n_latents)
        order, bounds = by_key(latents, self.n_latents + 1)
        return order, bounds[:-1]

    @property
    def density(self) -> float:
        """Entries in use over `tok * lat` (0 for an empty batch)."""
        return self.nnz / max(self.n_tokens * self.n_latents, 1)
