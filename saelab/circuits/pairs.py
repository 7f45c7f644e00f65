"""Prompts of a task beside the same prompts without what decides the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.lm.model import LanguageModel
from saelab.tasks import TASKS, Metric, Prompts, Split, Task, answer, check_competence

_CORRUPTION = 1_000_003
"""Added to a seed for what corrupted prompts show, so that it is drawn apart from the prompts."""

_ENOUGH = 8
"""Prompts that have to share their answers, on average, for each answer to be looked at apart."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean prompts and corrupted ones, row by row: equal in length, and scored by the clean one's answers.

    For methods that read labels, clean prompts are the positive examples and corrupted ones the negative.

    Attributes:
        task: its name.
        metric: how answers are scored.
        clean, corrupted: of the same choices.
    """

    task: str
    metric: Metric
    clean: Prompts
    corrupted: Prompts

    def __len__(self) -> int:
        return len(self.clean)

    def take(self, rows: Tensor) -> Pairs:
        """Some pairs, cut to the longest of them."""
        return Pairs(self.task, self.metric, take(self.clean, rows), take(self.corrupted, rows))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Pairs]]:
        """All pairs, those of a length together: `[row]` numbers, and the pairs."""
        if size < 1:
            raise SettingError("batch_prompts", f"must be at least 1, found {size}")
        for rows in self.clean.end.argsort(stable=True).split(size):
            yield rows, self.take(rows)


def take(prompts: Prompts, rows: Tensor) -> Prompts:
    """Some prompts, cut to the longest of them."""
    end = prompts.end[rows]
    return Prompts(
        prompts.tokens[rows, : int(end.max()) + 1],
        end,
        prompts.answers,
        prompts.right[rows],
        prompts.wrong[rows],
        {name: column[rows] for name, column in prompts.choices.items()},
        {name: column[rows] for name, column in prompts.marks.items()},
    )


def draw(task: str, n: int, split: Split, seed: int, lm: LanguageModel) -> Pairs:
    """`n` pairs of one of `TASKS`.

    Raises:
        SaelabError: unknown task, or one that this model's tokenizer has not the words for.
    """
    return pairs_of(task, TASKS[task](lm.tokenizer), n, split, seed)


def pairs_of(name: str, task: Task, n: int, split: Split, seed: int) -> Pairs:
    """`n` pairs of any task, to be called `name`."""
    if n < 2:
        raise SettingError("prompts", f"at least 2 pairs are needed, found {n}")
    choices = task.draw(n, split, seed)
    corrupted = task.corrupted(choices, seed + _CORRUPTION)
    return Pairs(name, task.metric, task.prompts(choices), task.prompts(corrupted))


@dataclass(frozen=True)
class Competence:
    """How well a model does a task.

    Attributes:
        accuracy: share of clean prompts whose likeliest answer is a right one.
        clean, corrupted: mean scores. Their difference is what a circuit is held to explain.
    """

    accuracy: float
    clean: float
    corrupted: float

    @property
    def effect(self) -> float:
        return self.clean - self.corrupted


def competence(lm: LanguageModel, pairs: Pairs, at_least: float = 0.8) -> Competence:
    """Measure a model on pairs.

    Raises:
        SaelabError: it does not do the task (with the accuracy), or corruption does not lower its score (with both).
    """
    said = answer(lm, pairs.clean)
    accuracy = float(said.correct(pairs.clean).double().mean())
    check_competence(pairs.task, accuracy, at_least)
    clean = float(said.score(pairs.clean, pairs.metric).mean())
    corrupted = float(answer(lm, pairs.corrupted).score(pairs.corrupted, pairs.metric).mean())
    if clean <= corrupted:
        raise SettingError(
            "task",
            f"corrupted prompts of '{pairs.task}' score {corrupted:.2f}, and clean ones {clean:.2f}: nothing is lost "
            "that a circuit could explain",
            fix="take another model or task",
        )
    return Competence(accuracy, clean, corrupted)


def same_answers(prompts: Prompts) -> Tensor:
    """`[prompt]` int64: which prompts have the same right answers; all are one where too few share them."""
    answers = prompts.right.unique(dim=0, return_inverse=True)[1]
    shared = len(prompts) / (int(answers.max()) + 1)
    return answers if shared >= _ENOUGH else torch.zeros_like(answers)


def rows_of(n: int, seed: int) -> Tensor:
    """`[n]` numbers below `n` in random order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
