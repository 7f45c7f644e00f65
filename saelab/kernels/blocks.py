"""Entries of some tokens as a dense block, and back, in torch."""

from __future__ import annotations

from torch import Tensor

from saelab.kernels.reference import latent_sum
from saelab.kernels.support import Support


def fill(values: Tensor, support: Support, tokens: slice, block: Tensor) -> Tensor:
    """The dense code `[tokens, lat]` of some tokens, written into `block`."""
    entries, rows, latents = _entries(support, tokens)
    block.zero_()[rows, latents] = values[entries]
    return block


def pick(block: Tensor, support: Support, tokens: slice, out: Tensor) -> None:
    """Write the block's values at the support into `out` `[entries]`."""
    entries, rows, latents = _entries(support, tokens)
    out[entries] = block[rows, latents]


def _entries(support: Support, tokens: slice) -> tuple[slice, Tensor, Tensor]:
    """Of some tokens: which entries, their rows inside the block, their latents."""
    entries = slice(_first_entry(support, tokens.start), _first_entry(support, tokens.stop))
    return entries, support.rows[entries] - tokens.start, support.latents[entries].long()


def _first_entry(support: Support, token: int) -> int:
    """Of a token's row. Ragged rows on a GPU wait for the device."""
    return int(support.offsets[token]) if support.width is None else token * support.width


__all__ = ["fill", "latent_sum", "pick"]
