"""The truth: plain torch, any floating dtype, any device, one gathered row per entry."""

from __future__ import annotations

import torch
from torch import Tensor

from saelab.kernels.support import Support


def gather(values: Tensor, support: Support, weight: Tensor) -> Tensor:
    out = weight.new_zeros(support.n_tokens, weight.shape[1])
    latents = support.latents[: support.nnz].long()
    return out.index_add_(0, support.rows, values[: support.nnz, None] * weight[latents])


def sampled_dot(grad: Tensor, weight: Tensor, support: Support) -> Tensor:
    latents = support.latents[: support.nnz].long()
    out = weight.new_zeros(support.latents.numel())
    out[: support.nnz] = (grad[support.rows] * weight[latents]).sum(1)
    return out


def transposed_scatter(values: Tensor, support: Support, grad: Tensor) -> Tensor:
    out = grad.new_zeros(support.n_latents, grad.shape[1])
    latents = support.latents[: support.nnz].long()
    return out.index_add_(0, latents, values[: support.nnz, None] * grad[support.rows])


def latent_sum(values: Tensor, support: Support) -> Tensor:
    out = values.new_zeros(support.n_latents)
    return out.index_add_(0, support.latents[: support.nnz].long(), values[: support.nnz])


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ties go to the lowest index."""
    values, indices = torch.sort(scores, dim=-1, descending=True, stable=True)
    return values[..., :k], indices[..., :k]
