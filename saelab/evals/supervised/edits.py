"""Edits with few latents: those removed from what one example is written with, and those added from another.

Source: Makelov, Lange and Nanda 2024 (arXiv 2405.08366), sparse control (axis 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.evals.supervised.dictionary import Written

_CHUNK = 16
"""Examples whose terms are in memory at once: `[example, term, d]`."""


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit with at most so many latents.

    Attributes:
        activations: `[example, d]`: the edited ones.
        used: `[example]`: latents removed or added.
        weight: `[example]`: the removed latents' share of what the dictionary says of the source.
        distance: `[example]`: how far they are from those of the target, in norm.
    """

    activations: Tensor
    used: Tensor
    weight: Tensor
    distance: Tensor


def greedy(
    source: Tensor, target: Tensor, of_source: Written, of_target: Written, rows: Tensor, budgets: Sequence[int]
) -> Mapping[int, Edit]:
    """Bring `[example, d]` activations as near to the target's as removals of `of_source`'s terms and additions of
    `of_target`'s bring them, the best term first; a latent in both changes to the target's value at the price of two.

    Args:
        rows: `[latent, d]`, the dictionary.
        budgets: how many terms at most, each a result. 0 leaves the source as it is.
    """
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(source), _CHUNK)]
    parts = [_greedy(source[c], target[c], of_source[c], of_target[c], rows, budgets) for c in chunks]
    return {b: Edit(*(torch.cat(column) for column in zip(*(p[b] for p in parts), strict=True))) for b in budgets}


def term_weights(written: Written, rows: Tensor) -> Tensor:
    """`[example, width]`: each term's share of what they say together, `(z_i d_i) . e / ||e||^2` with e their sum
    (the paper's size of an edit); they add up to 1."""
    terms = written.terms(rows)
    said = terms.sum(1)
    return (terms @ said[..., None])[..., 0] / said.square().sum(1, keepdim=True).clamp_min(1e-12)


def _greedy(
    source: Tensor, target: Tensor, of_source: Written, of_target: Written, rows: Tensor, budgets: Sequence[int]
) -> dict[int, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The fields of an `Edit` for each budget."""
    removals = -of_source.terms(rows)
    steps = torch.cat([removals, of_target.terms(rows)], 1)
    norms = steps.square().sum(2)
    norms[steps.eq(0).all(2)] = torch.inf  # padding
    weights = torch.cat([term_weights(of_source, rows), torch.zeros(of_target.values.shape)], 1)
    edited, used, weight = source, torch.zeros(len(source)), torch.zeros(len(source))
    found = {}
    example = torch.arange(len(source))
    for count in range(max(budgets) + 1):
        if count in budgets:
            found[count] = (edited, used, weight, (target - edited).norm(dim=1))
        gain, which = (2 * (steps @ (target - edited)[..., None])[..., 0] - norms).max(1)
        better = gain > 0
        edited = torch.where(better[:, None], edited + steps[example, which], edited)
        used, weight = used + better, weight + better * weights[example, which]
        norms[example[better], which[better]] = torch.inf
    return found
