"""Codes too dense for sparse kernels: the same primitives as matrix products, in chunks of tokens.

A chunk's dense code is the only `tokens x latents` block ever held.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from saelab.kernels import dispatch
from saelab.kernels.products import scratch
from saelab.kernels.support import Support

_CHUNK_TOKENS = 512


def _chunks(support: Support) -> Iterator[slice]:
    for start in range(0, support.n_tokens, _CHUNK_TOKENS):
        yield slice(start, min(start + _CHUNK_TOKENS, support.n_tokens))


def _block(support: Support, tokens: slice, like: Tensor) -> Tensor:
    return scratch("dense code", (tokens.stop - tokens.start, support.n_latents), like.dtype, like.device)


def gather(values: Tensor, support: Support, weight: Tensor) -> Tensor:
    out, kernels = weight.new_empty(support.n_tokens, weight.shape[1]), _kernels(values)
    for tokens in _chunks(support):
        block = kernels.fill(values, support, tokens, _block(support, tokens, values))
        torch.mm(block, weight, out=out[tokens])
    return out


def sampled_dot(grad: Tensor, weight: Tensor, support: Support) -> Tensor:
    out, kernels = weight.new_zeros(support.latents.numel()), _kernels(weight)
    for tokens in _chunks(support):
        block = torch.mm(grad[tokens], weight.T, out=_block(support, tokens, weight))
        kernels.pick(block, support, tokens, out)
    return out


def transposed_scatter(values: Tensor, support: Support, grad: Tensor) -> Tensor:
    out, kernels = grad.new_zeros(support.n_latents, grad.shape[1]), _kernels(values)
    for tokens in _chunks(support):
        block = kernels.fill(values, support, tokens, _block(support, tokens, values))
        out.addmm_(block.T, grad[tokens])
    return out


def latent_sum(values: Tensor, support: Support) -> Tensor:
    return _kernels(values).latent_sum(values, support)


# -- between entries and blocks -----------------------------------------------------------------------


def _kernels(tensor: Tensor) -> ModuleType:
    """What goes over entries for such tensors."""
    if dispatch.takes_compiled(tensor):
        return dispatch.implementation("cpu")
    from saelab.kernels import blocks

    return blocks


__all__ = ["gather", "latent_sum", "sampled_dot", "transposed_scatter"]
