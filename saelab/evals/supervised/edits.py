"""Edits with few latents: those removed from what one example is written with, and those added from another.

Source: Makelov, Lange and Nanda 2024 (arXiv 2405.08366), section 4.2 and its appendix on greedy edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.evals.supervised.dictionary import Written


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit with at most so many latents.

    Attributes:
        activations: `[example, d]`: the edited ones.
        used: `[example]` int64: latents removed or added.
        distance: `[example]`: how far they are from those of the target, in norm.
    """

    activations: Tensor
    used: Tensor
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
    steps = torch.cat([_terms(of_source, rows, -1.0), _terms(of_target, rows, 1.0)], 1)
    norms = steps.square().sum(2).masked_fill(steps.abs().amax(2) == 0, torch.inf)
    edited, used = source.clone(), torch.zeros(len(source), dtype=torch.int64)
    found = {0: _result(edited, used, target)} if 0 in budgets else {}
    example = torch.arange(len(source))
    for count in range(1, max(budgets, default=0) + 1):
        gain = 2 * torch.einsum("ed,ecd->ec", target - edited, steps) - norms
        best, which = gain.max(1)
        better = best > 0
        edited = torch.where(better[:, None], edited + steps[example, which], edited)
        norms[example[better], which[better]] = torch.inf
        used = used + better
        if count in budgets:
            found[count] = _result(edited, used, target)
    return found


def _terms(written: Written, rows: Tensor, sign: float) -> Tensor:
    return sign * written.values[..., None] * rows[written.latents]


def _result(edited: Tensor, used: Tensor, target: Tensor) -> Edit:
    return Edit(edited.clone(), used.clone(), (target - edited).norm(dim=1))
