"""An objective: loss terms with their weights and warm-ups, summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saelab.objectives.terms import TERMS, Pass, Term
from saelab.sae.variants import LossTerm


def weight(term: LossTerm, progress: float) -> float:
    """A term's weight after the fraction `progress` of training."""
    ramp = min(1.0, progress / term.warmup_frac) if term.warmup_frac > 0 else 1.0
    return term.coefficient * ramp


class Objective:
    """The weighted sum of a variant's loss terms."""

    def __init__(self, losses: Sequence[LossTerm]):
        self.parts: list[tuple[LossTerm, Term]] = [(loss, TERMS[loss.kind](**loss.settings)) for loss in losses]
        kinds = [loss.kind for loss in losses]
        self.names = [
            f"{kind}_{kinds[:i].count(kind) + 1}" if kind in kinds[:i] else kind for i, kind in enumerate(kinds)
        ]

    def __call__(self, p: Pass, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term's unweighted value by name (a second one of a kind gets a number).

        Args:
            progress: fraction of training done, in [0, 1].
        """
        values = [term(p) for _, term in self.parts]
        weights = [weight(loss, progress) for loss, _ in self.parts]
        total = torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum()
        return total, {name: value.detach() for name, value in zip(self.names, values, strict=True)}
