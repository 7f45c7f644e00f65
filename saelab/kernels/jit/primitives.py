"""The sparse primitives, compiled: a row of the result at a time, written once, in vectors along d."""

from __future__ import annotations

import torch
from numba import prange
from torch import Tensor

from saelab.kernels.jit import call, parallel, serial
from saelab.kernels.support import Support


@parallel
def _gather(values, latents, offsets, weight, out):
    for b in prange(out.shape[0]):
        row = out[b]
        row[:] = 0
        for j in range(offsets[b], offsets[b + 1]):
            value, atom = values[j], weight[latents[j]]
            for i in range(row.shape[0]):
                row[i] += value * atom[i]


def gather(values: Tensor, support: Support, weight: Tensor) -> Tensor:
    out = weight.new_empty(support.n_tokens, weight.shape[1])
    call(_gather, values.contiguous(), support.latents, support.offsets, weight.contiguous(), out)
    return out


@parallel
def _sampled_dot(rows, weight, latents, offsets, out):
    for b in prange(rows.shape[0]):
        row = rows[b]
        for j in range(offsets[b], offsets[b + 1]):
            atom, total = weight[latents[j]], rows.dtype.type(0)
            for i in range(row.shape[0]):
                total += row[i] * atom[i]
            out[j] = total


def sampled_dot(grad: Tensor, weight: Tensor, support: Support) -> Tensor:
    out = weight.new_empty(support.latents.numel())
    out[support.nnz :] = 0
    call(_sampled_dot, grad.contiguous(), weight.contiguous(), support.latents, support.offsets, out)
    return out


@parallel
def _transposed_scatter(values, order, bounds, owners, grad, out):
    for f in prange(out.shape[0]):
        row = out[f]
        row[:] = 0
        for j in range(bounds[f], bounds[f + 1]):
            entry = order[j]
            value, source = values[entry], grad[owners[entry]]
            for i in range(row.shape[0]):
                row[i] += value * source[i]


def transposed_scatter(values: Tensor, support: Support, grad: Tensor) -> Tensor:
    out = grad.new_empty(support.n_latents, grad.shape[1])
    order, bounds = support.by_latent
    call(_transposed_scatter, values.contiguous(), order, bounds, support.rows, grad.contiguous(), out)
    return out


@parallel
def _fill(values, latents, offsets, first, block):
    for b in prange(block.shape[0]):
        row = block[b]
        row[:] = 0
        for j in range(offsets[first + b], offsets[first + b + 1]):
            row[latents[j]] = values[j]


def fill(values: Tensor, support: Support, tokens: slice, block: Tensor) -> Tensor:
    """The dense code `[tokens, lat]` of some tokens, written into `block`."""
    call(_fill, values.contiguous(), support.latents, support.offsets, tokens.start, block)
    return block


@parallel
def _pick(block, latents, offsets, first, out):
    for b in prange(block.shape[0]):
        row = block[b]
        for j in range(offsets[first + b], offsets[first + b + 1]):
            out[j] = row[latents[j]]


def pick(block: Tensor, support: Support, tokens: slice, out: Tensor) -> None:
    """Write the block's values at the support into `out` `[entries]`."""
    call(_pick, block, support.latents, support.offsets, tokens.start, out)


@serial
def _latent_sum(values, latents, out):
    for j in range(latents.shape[0]):
        out[latents[j]] += values[j]


def latent_sum(values: Tensor, support: Support) -> Tensor:
    out = values.new_zeros(support.n_latents)
    call(_latent_sum, values[: support.nnz].contiguous(), support.latents[: support.nnz], out)
    return out


@serial
def _by_key(keys, order, bounds):
    for j in range(keys.shape[0]):
        bounds[keys[j] + 1] += 1
    for f in range(bounds.shape[0] - 1):
        bounds[f + 1] += bounds[f]
    place = bounds[:-1].copy()
    for j in range(keys.shape[0]):
        order[place[keys[j]]] = j
        place[keys[j]] += 1


def by_key(keys: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
    """A stable counting sort of `[n]` keys below `n_keys`: the order `[n]` int64, and `[n_keys + 1]` int64 bounds."""
    order = torch.empty(len(keys), dtype=torch.int64)
    bounds = torch.zeros(n_keys + 1, dtype=torch.int64)
    call(_by_key, keys, order, bounds)
    return order, bounds


__all__ = ["by_key", "fill", "gather", "latent_sum", "pick", "sampled_dot", "transposed_scatter"]
