"""Affine pre-activations of every latent, of which a budget keeps few: encoder and selection rule in one."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from saelab.kernels import dispatch
from saelab.kernels.budgets import Budget
from saelab.kernels.ops import sampled_dot
from saelab.kernels.products import Affine, Held
from saelab.kernels.support import Support


@dataclass(frozen=True, eq=False)
class Selected:
    """Attributes:
    support: what the budget keeps.
    values: `[entries]`, the exact pre-activations at it, without a gradient.
    """

    support: Support
    values: Tensor


@torch.no_grad()
def select(x: Tensor, weight: Tensor, bias: Tensor, budget: Budget, *, screened: bool = False) -> Selected:
    """What `budget` keeps of `x weight^T + bias`, `[tok, d]`, `[lat, d]`, `[lat]`; the matrix is never held whole.

    Args:
        screened: compute all pre-activations in few bits, keep a margin of candidates, and cut those back by
            their exact values; `dispatch.screening` says in what they are computed. Where most of a margin would be
            kept (a ReLU SAE starts half dense) there is nothing to be screened.
    """
    screened = screened and budget.density(Affine(x, weight, bias)) < dispatch.DENSE_FROM
    ops, kind = dispatch.selection(x), dispatch.screening(x) if screened else Affine
    beside = [
        kind(rows, other, other.new_zeros(len(other)), f"beside {i}") for i, (rows, other) in enumerate(budget.beside)
    ]
    support, values = budget.candidates(kind(x, weight, bias), beside, ops)
    if values is None or screened:
        values = sampled_dot(x, weight, support, bias=bias)
    if not screened:
        return Selected(support, values)
    return _narrowed(budget, support, values, ops)


def _narrowed(budget: Budget, candidates: Support, values: Tensor, ops: ModuleType) -> Selected:
    values = values[: candidates.nnz]
    others = [sampled_dot(rows, other, candidates)[: candidates.nnz] for rows, other in budget.beside]
    scores = budget.score(values.clone(), *others)
    support, kept = budget.narrow(scores, candidates, ops)
    return Selected(support, values[kept])


@torch.no_grad()
def select_from(pre: Tensor, budget: Budget) -> Support:
    """What `budget` keeps of pre-activations `[tok, lat]` that are there already."""
    beside = [Held(rows @ other.T) for rows, other in budget.beside]
    return budget.candidates(Held(pre), beside, dispatch.selection(pre))[0]
