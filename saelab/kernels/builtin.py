"""CPU without numba, sparse codes: the torch built-ins that measured fastest (d 576, 65,536 entries, 2 threads).

gather 2-3 ms (`embedding_bag`), sampled dot 4 ms (`sampled_addmm`; an einsum over gathered rows takes
60), transposed scatter 3 ms (stable sort, then one `embedding_bag` whose bags are the latents;
`index_add_` takes 53). All three are deterministic.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saelab.kernels.support import Support

_GROUP_COLUMNS = 32
"""Latents per group in the two-stage top-k."""


def _quietly_first_csr() -> None:
    """Torch warns once per process that sparse CSR is in beta; take that warning here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.zeros(1), size=(1, 1))


_quietly_first_csr()


def gather(values: Tensor, support: Support, weight: Tensor) -> Tensor:
    if support.nnz == 0:
        return weight.new_zeros(support.n_tokens, weight.shape[1])
    return embedding_bag(
        support.latents[: support.nnz],
        weight,
        support.offsets,
        mode="sum",
        per_sample_weights=values[: support.nnz],
        include_last_offset=True,
    )


def sampled_dot(grad: Tensor, weight: Tensor, support: Support) -> Tensor:
    out = weight.new_zeros(support.latents.numel())
    if support.nnz == 0:
        return out
    pattern = torch.sparse_csr_tensor(
        support.offsets,
        support.latents[: support.nnz],
        out[: support.nnz],
        size=(support.n_tokens, support.n_latents),
        check_invariants=False,
    )
    out[: support.nnz] = torch.sparse.sampled_addmm(pattern, grad, weight.T, beta=0.0).values()
    return out


def transposed_scatter(values: Tensor, support: Support, grad: Tensor) -> Tensor:
    if support.nnz == 0:
        return grad.new_zeros(support.n_latents, grad.shape[1])
    order, bounds = support.by_latent
    order = order[: support.nnz]
    return embedding_bag(
        support.rows[order],
        grad,
        bounds,
        mode="sum",
        per_sample_weights=values[order],
        include_last_offset=True,
    )


def latent_sum(values: Tensor, support: Support) -> Tensor:
    nnz = support.nnz
    return torch.bincount(support.latents[:nnz], values[:nnz], support.n_latents).to(values.dtype)


def by_key(keys: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
    """A stable sort of `[n]` keys below `n_keys`: the order `[n]` int64, and `[n_keys + 1]` int64 bounds."""
    counts = torch.zeros(n_keys + 1, dtype=torch.int64, device=keys.device)
    counts[1:].index_add_(0, keys, counts.new_ones(()).expand(keys.numel()))  # `bincount` would wait for a GPU
    return torch.sort(keys, stable=True).indices, counts.cumsum(0)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of `scores` `[tok, lat]`, in no order.

    The largest k of a row lie in the k groups of columns whose maxima are largest, so one
    vectorised pass for the maxima and two small selections replace a selection over the whole row:
    exact, and about half the time of `torch.topk` at 8,192 latents and k = 32.
    """
    n_tokens, n_latents = scores.shape
    n_groups, rest = divmod(n_latents, _GROUP_COLUMNS)
    if rest or n_groups < 4 * k or not scores.is_contiguous():
        return torch.topk(scores, k, dim=1, sorted=False)
    grouped = scores.view(n_tokens, _GROUP_COLUMNS, n_groups)  # group g: columns g, g + n_groups, ...
    groups = torch.topk(grouped.amax(1), k, dim=1, sorted=False).indices
    candidates = grouped.gather(2, groups[:, None, :].expand(-1, _GROUP_COLUMNS, -1))
    values, picked = torch.topk(candidates.flatten(1), k, dim=1, sorted=False)
    member, group = picked // k, picked % k
    return values, member * n_groups + groups.gather(1, group)
