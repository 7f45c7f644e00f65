"""An objective: loss terms with their weights and warm-ups, summed."""

from __future__ import annotations

from collections.abc import Sequence

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

    def __call__(self, p: Pass, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term's unweighted value by name.

        Args:
            progress: fraction of training done, in [0, 1].
        """
        values = {loss.kind: term(p) for loss, term in self.parts}
        total = sum(weight(loss, progress) * values[loss.kind] for loss, _ in self.parts)
        assert isinstance(total, Tensor)
        return total, {name: value.detach() for name, value in values.items()}
