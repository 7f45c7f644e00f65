"""How a model, edited or not, answers a task's prompts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.lm.model import LanguageModel
from saelab.tasks.base import Metric, Prompts

BATCH_PROMPTS = 32
Edited = Callable[[slice], AbstractContextManager[None]]
"""Edits the model while the prompts of a slice run."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says to each prompt.

    Attributes:
        log_probs: `[prompt, answer]` float32, of `Prompts.answers`.
        best: `[prompt]` int64: the likeliest next token of the whole vocabulary.
    """

    log_probs: Tensor
    best: Tensor

    def score(self, prompts: Prompts, metric: Metric) -> Tensor:
        """`[prompt]`: by how much right answers are preferred to wrong ones.

        `logit_difference`: mean logit (log-probability: the same) of the right minus that of the wrong ones.
        `probability_difference`: summed probability of the right minus that of the wrong ones.
        """
        values = self.log_probs.exp() if metric == "probability_difference" else self.log_probs
        right, wrong = (values * prompts.right).sum(1), (values * prompts.wrong).sum(1)
        if metric == "probability_difference":
            return right - wrong
        return right / prompts.right.sum(1) - wrong / prompts.wrong.sum(1)

    def correct(self, prompts: Prompts) -> Tensor:
        """`[prompt]` bool: the likeliest of a prompt's own answers is a right one."""
        right = self.log_probs.masked_fill(~prompts.right, -torch.inf).amax(1)
        return right > self.log_probs.masked_fill(~prompts.wrong, -torch.inf).amax(1)


@torch.no_grad()
def answer(
    lm: LanguageModel,
    prompts: Prompts,
    edited: Edited = lambda rows: nullcontext(),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """Run the prompts, each batch inside `edited(its slice)`."""
    found: list[Tensor] = []
    best: list[Tensor] = []
    for start in range(0, len(prompts), BATCH_PROMPTS):
        rows = slice(start, start + BATCH_PROMPTS)
        end = prompts.end[rows]
        with edited(rows):
            logits = lm.logits(prompts.tokens[rows, : int(end.max()) + 1])
        last = logits[torch.arange(len(end)), end.to(logits.device)].float().log_softmax(-1).cpu()
        found.append(last[:, prompts.answers])
        best.append(last.argmax(1))
        report(min(rows.stop, len(prompts)), len(prompts))
    return Answers(torch.cat(found), torch.cat(best))


def check_competence(name: str, accuracy: float, at_least: float) -> None:
    """Raise where the model cannot do a task: nothing can be learned from how it does it.

    Raises:
        SaelabError: with the accuracy.
    """
    if accuracy < at_least:
        raise SaelabError(
            f"this model answers {accuracy:.0%} of '{name}' rightly, below {at_least:.0%}: it does not do the task",
            fix="take another model or task",
        )
