"""What any method should beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saelab.circuits.outputs import Position, head_outputs
from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Report, Scores, quiet
from saelab.lm.model import LanguageModel


@dataclass(frozen=True)
class MeanDifference:
    """The norm of the difference between what a head writes on average in clean and in corrupted prompts.

    Attributes:
        position: the mean over all positions, or the answer's.
    """

    position: Position = "mean"
    batch_prompts: int = 32

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        found = head_outputs(passes, self.position, self.batch_prompts, report)
        gap = found.z[found.positive].mean(0) - found.z[~found.positive].mean(0)
        norms = [passes.anatomy.written(layer, row).norm(dim=-1) for layer, row in enumerate(gap)]
        return Scores("mean_difference", torch.stack(norms).cpu(), passes.cost.stop())


@dataclass(frozen=True)
class Random:
    """Random numbers."""

    seed: int = 0

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        passes.cost.prompts = 0
        shape = (passes.anatomy.n_layers, passes.anatomy.n_heads)
        return Scores(
            "random", torch.rand(shape, generator=torch.Generator().manual_seed(self.seed)), passes.cost.stop()
        )
