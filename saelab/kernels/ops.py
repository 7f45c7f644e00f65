"""The three primitives, differentiable: the backward of each is made of the other two.

With `v` the values, `i` the latents of a support, `W` `[lat, d]` and `G` `[tok, d]`:

    gather              out[b]   = sum_j v[b,j] * W[i[b,j]]                         -> [tok, d]
    sampled dot         out[b,j] = <G[b], W[i[b,j]]>                                -> [entries]
    transposed scatter  out[f]   = sum over (b,j) with i[b,j] = f of v[b,j] * G[b]  -> [lat, d]

Each is linear in either argument, so derivatives of any order exist. Sums are taken in the dtype of
the arguments or a wider one; the order of entries inside a row matters to rounding alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from saelab.kernels.dispatch import choose, choose_top_k
from saelab.kernels.support import Support

# pyright: reportIncompatibleMethodOverride=false


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.support = support
        return choose(weight, support).gather(values, support, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        values, weight = ctx.saved_tensors
        need_values, need_weight, _ = ctx.needs_input_grad
        return (
            sampled_dot(grad, weight, ctx.support) if need_values else None,
            transposed_scatter(values, ctx.support, grad) if need_weight else None,
            None,
        )


class _SampledDot(Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        centre: Tensor | None,
        support: Support,
        known: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.support = support
        if known is not None:
            return known
        out = choose(weight, support).sampled_dot(rows, weight, support)
        if bias is not None:
            out[: support.nnz] += bias[support.latents[: support.nnz]]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        rows, weight = ctx.saved_tensors
        need_rows, need_weight, need_bias, need_centre = ctx.needs_input_grad[:4]
        per_latent = latent_sum(grad, ctx.support) if need_bias or need_centre else None
        return (
            gather(grad, ctx.support, weight) if need_rows else None,
            transposed_scatter(grad, ctx.support, rows) if need_weight else None,
            per_latent if need_bias else None,
            -(per_latent @ weight) if need_centre and per_latent is not None else None,
            None,
            None,
        )


class _TransposedScatter(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, rows)
        ctx.support = support
        return choose(rows, support).transposed_scatter(values, support, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        values, rows = ctx.saved_tensors
        need_values, need_rows, _ = ctx.needs_input_grad
        return (
            sampled_dot(rows, grad, ctx.support) if need_values else None,
            gather(values, ctx.support, grad) if need_rows else None,
            None,
        )


class _LatentSum(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, support: Support) -> Tensor:
        ctx.support = support
        return choose(values, support).latent_sum(values, support)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        return spread(grad, ctx.support), None


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, per_latent: Tensor, support: Support) -> Tensor:
        ctx.support = support
        out = per_latent.new_zeros(support.latents.numel())
        out[: support.nnz] = per_latent[support.latents[: support.nnz].long()]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        return latent_sum(grad, ctx.support), None


def gather(values: Tensor, support: Support, weight: Tensor) -> Tensor:
    """`out[b] = sum_j values[b,j] * weight[latents[b,j]]`: `[entries]`, `[lat, d]` -> `[tok, d]`."""
    return _Gather.apply(values, weight, support)  # type: ignore[no-any-return]


def sampled_dot(
    rows: Tensor,
    weight: Tensor,
    support: Support,
    *,
    bias: Tensor | None = None,
    centre: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """`out[b,j] = <rows[b], weight[i]> + bias[i]`, i = latents[b,j]: `[tok, d]`, `[lat, d]` -> `[entries]`.

    Args:
        centre: `[d]`, what `rows` are given minus of, if it is to have its gradient here and not through them:
            one product with `weight` instead of a sum of gathered rows for each token.
        known: the values, where a matrix product has already computed them; then only the backward runs.
    """
    return _SampledDot.apply(rows.contiguous(), weight, bias, centre, support, known)  # type: ignore[no-any-return]


def transposed_scatter(values: Tensor, support: Support, rows: Tensor) -> Tensor:
    """`out[f] = sum of values[b,j] * rows[b] where latents[b,j] = f`: -> `[lat, d]`."""
    return _TransposedScatter.apply(values, rows.contiguous(), support)  # type: ignore[no-any-return]


def latent_sum(values: Tensor, support: Support) -> Tensor:
    """`out[f] = sum of values[b,j] where latents[b,j] = f`: `[entries]` -> `[lat]`."""
    return _LatentSum.apply(values, support)  # type: ignore[no-any-return]


def spread(per_latent: Tensor, support: Support) -> Tensor:
    """`out[b,j] = per_latent[latents[b,j]]`: `[lat]` -> `[entries]`; the transpose of `latent_sum`."""
    return _Spread.apply(per_latent, support)  # type: ignore[no-any-return]


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the k largest scores of each row of `[tok, lat]`, in no order; no gradient.

    Any device and dtype. Which of several equal scores is kept is left open, except where
    `SAELAB_KERNELS=reference` (the lowest column).
    """
    with torch.no_grad():
        return choose_top_k().top_k(scores, k)
