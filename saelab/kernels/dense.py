"""Codes too dense for sparse kernels: the same primitives as matrix products, in chunks of tokens.

A chunk's dense code is the only `tokens x latents` block ever held.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saelab.kernels.reference import latent_sum
from saelab.kernels.support import Support

_CHUNK_TOKENS = 512


def _chunks(support: Support) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Token slice, entry slice, and the entries' (row inside the chunk, latent)."""
    for start in range(0, support.n_tokens, _CHUNK_TOKENS):
        tokens = slice(start, min(start + _CHUNK_TOKENS, support.n_tokens))
        entries = slice(_first_entry(support, tokens.start), _first_entry(support, tokens.stop))
        yield tokens, entries, support.rows[entries] - start, support.latents[entries].long()


def _first_entry(support: Support, token: int) -> int:
    """Of a token's row. Ragged rows on a GPU wait for the device."""
    return int(support.offsets[token]) if support.width is None else token * support.width


def _densify(values: Tensor, rows: Tensor, latents: Tensor, n_rows: int, n_latents: int) -> Tensor:
    block = values.new_zeros(n_rows, n_latents)
    block[rows, latents] = values
    return block


def gather(values: Tensor, support: Support, weight: Tensor) -> Tensor:
    out = weight.new_empty(support.n_tokens, weight.shape[1])
    for tokens, entries, rows, latents in _chunks(support):
        block = _densify(values[entries], rows, latents, tokens.stop - tokens.start, support.n_latents)
        torch.mm(block, weight, out=out[tokens])
    return out


def sampled_dot(grad: Tensor, weight: Tensor, support: Support) -> Tensor:
    out = weight.new_zeros(support.latents.numel())
    for tokens, entries, rows, latents in _chunks(support):
        out[entries] = (grad[tokens] @ weight.T)[rows, latents]
    return out


def transposed_scatter(values: Tensor, support: Support, grad: Tensor) -> Tensor:
    out = grad.new_zeros(support.n_latents, grad.shape[1])
    for tokens, entries, rows, latents in _chunks(support):
        block = _densify(values[entries], rows, latents, tokens.stop - tokens.start, support.n_latents)
        out.addmm_(block.T, grad[tokens])
    return out


__all__ = ["gather", "latent_sum", "sampled_dot", "transposed_scatter"]
