"""What any method should beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saelab.circuits.outputs import Position, head_outputs
from saelab.circuits.pairs import Pairs, same_answers
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Report, Scores, quiet
from saelab.lm.model import LanguageModel


@dataclass(frozen=True)
class MeanDifference:
    """The norm of the difference between what a head writes on average in clean and in corrupted prompts.

    Attributes:
        position: the mean over all positions, or the answer's.
        by_answer: compare prompts of one answer among themselves where enough share it, and take the mean of the norms.
    """

    position: Position = "mean"
    by_answer: bool = False
    batch_prompts: int = 32

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        found = head_outputs(passes, self.position, self.batch_prompts, report)
        gaps = found.z[found.positive] - found.z[~found.positive]
        answers = same_answers(pairs.clean) if self.by_answer else torch.zeros(len(pairs), dtype=torch.int64)
        norms = torch.zeros(passes.anatomy.n_layers, passes.anatomy.n_heads)
        for answer in answers.unique():
            share = float((answers == answer).float().mean())
            for layer, gap in enumerate(gaps[answers == answer].mean(0)):
                norms[layer] += share * passes.anatomy.written(layer, gap.to(lm.device)).norm(dim=-1).cpu()
        return Scores("mean_difference", norms, passes.cost.stop())


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
