"""What an edit of one hook does to answers that a concept decides, and to everything else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab.errors import SaelabError
from saelab.evals.base import NotMeasurable
from saelab.evals.downstream import kl_nats
from saelab.kernels import gather
from saelab.lm.mask import Mask
from saelab.lm.model import Hook, LanguageModel
from saelab.lm.splice import EditFrom, splice_from
from saelab.sae import SAE
from saelab.tasks import TASKS, Prompts, Task, answer

_BATCH_CONTEXTS = 8


@dataclass(frozen=True, eq=False)
class Asked:
    """Prompts of a task, and which of their answers speak for a concept's second class and for its first.

    Attributes:
        task: its name; prompts: of its test split.
        positive, negative: `[prompt, answer]` bool.
    """

    task: str
    prompts: Prompts
    positive: Tensor
    negative: Tensor

    @property
    def poles(self) -> Prompts:
        """The prompts, the second class's answers being right whatever is said."""
        return replace(self.prompts, right=self.positive, wrong=self.negative)


def task_of(lm: LanguageModel, concept: str) -> tuple[str, Task]:
    """The first task that has an attribute of the concept's name, with two values.

    Raises:
        NotMeasurable: there is none for this tokenizer.
    """
    reasons: list[str] = []
    for name in TASKS:
        try:
            task = TASKS[name](lm.tokenizer)
        except SaelabError as error:
            reasons.append(f"{name}: {error.message}")
            continue
        if len(task.attributes.get(concept, ())) == 2:
            return name, task
    raise NotMeasurable("; ".join(["no task asks for it", *reasons]))


def ask(name: str, task: Task, concept: str, second: str, n: int, seed: int) -> Asked:
    """Prompts of a task's test split. An answer speaks for a class where it is right for prompts of that value, and
    never for those of the other.

    Args:
        concept: the attribute; second: the concept's second class, by the value's text, else the second value.

    Raises:
        NotMeasurable: answers do not depend on the attribute.
    """
    prompts = task.prompts(task.draw(n, "test", seed))
    values = task.attributes[concept]
    said = prompts.choices[concept] == (values.index(second) if second in values else 1)
    of_second, of_first = (prompts.right[side].any(0) for side in (said, ~said))
    known = prompts.right | prompts.wrong
    positive, negative = known & of_second & ~of_first, known & of_first & ~of_second
    if not (positive.any(1) & negative.any(1)).all():
        raise NotMeasurable(f"the answers of task '{name}' do not depend on it")
    return Asked(name, prompts, positive, negative)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a model does under an edit.

    Attributes:
        towards: `[prompt]`: mean log-probability of answers for the second class minus that for the first.
        right: `[prompt]`: the same of right answers minus wrong ones.
        accuracy: share of prompts whose likeliest answer is a right one.
        kl: mean KL(unedited || edited) in nats over the text's tokens.
    """

    towards: NDArray[np.float64]
    right: NDArray[np.float64]
    accuracy: float
    kl: float


@dataclass(frozen=True, eq=False)
class Trial:
    """A model, prompts and unrelated text, for edits of one hook that may read another.

    Attributes:
        text: `[context, position]` tokens; counted: which of them are real.
    """

    lm: LanguageModel
    source: Hook
    target: Hook
    mask: Mask
    asked: Asked
    text: Tensor
    counted: Tensor

    @cached_property
    def unedited(self) -> Outcome:
        return self.outcome(_nothing)

    @torch.no_grad()
    def outcome(self, edit: EditFrom) -> Outcome:
        """Positions that the mask leaves out are neither edited nor counted."""
        prompts = self.asked.prompts

        @contextmanager
        def edited(rows: slice) -> Iterator[None]:
            tokens = prompts.tokens[rows, : int(prompts.end[rows].max()) + 1]
            with self._spliced(tokens, edit):
                yield

        said = answer(self.lm, prompts, edited)
        return Outcome(
            said.score(self.asked.poles, "logit_difference").double().numpy(),
            said.score(prompts, "logit_difference").double().numpy(),
            float(said.correct(prompts).double().mean()),
            0.0 if edit is _nothing else self._kl(edit),
        )

    def _kl(self, edit: EditFrom) -> float:
        rows, total, count = range(0, len(self.text), _BATCH_CONTEXTS), 0.0, 0
        for start, clean in zip(rows, self._clean, strict=True):
            tokens, counted = self.text[start : start + _BATCH_CONTEXTS], self.counted[start : start + _BATCH_CONTEXTS]
            with self._spliced(tokens, edit):
                found = kl_nats(clean, self.lm.logits(tokens)).cpu()
            counted = counted & self.mask.keep_tokens(tokens)
            total, count = total + float(found[counted].double().sum()), count + int(counted.sum())
        return total / count

    @cached_property
    def _clean(self) -> list[Tensor]:
        return [self.lm.logits(tokens) for tokens in self.text.split(_BATCH_CONTEXTS)]

    def _spliced(self, tokens: Tensor, edit: EditFrom) -> AbstractContextManager[None]:
        return splice_from(self.lm, self.source, self.target, edit, mask=self.mask, tokens=tokens)


def push(direction: Tensor) -> EditFrom:
    """Add `[d]`."""
    return lambda _, value: value + direction.to(value)


def project_out(direction: Tensor, mean: Tensor) -> EditFrom:
    """Set what activations have along `[d]`, of norm 1, to what their mean has."""

    def edit(_: Tensor, value: Tensor) -> Tensor:
        unit = direction.to(value)
        return value - ((value - mean.to(value)) @ unit)[:, None] * unit

    return edit


def ablate(sae: SAE, latents: Tensor) -> EditFrom:
    """Set latents to 0; all that the others and the SAE's error say stays, to the bit."""

    def edit(x: Tensor, value: Tensor) -> Tensor:
        code = sae.encode(x)
        gone = torch.isin(code.latents, latents.to(code.latents))
        return value - gather(code.values * gone, code.support, sae.W_dec)

    return edit


def best_effect(kls: Sequence[float], effects: Sequence[float], at_most: float) -> float:
    """The largest effect on the path through `(KL, effect)` points, in order of strength and starting at (0, 0), while
    the KL does not exceed `at_most`; straight between points."""
    path = [(0.0, 0.0), *zip(kls, effects, strict=True)]
    found = [effect for kl, effect in path if kl <= at_most]
    for (kl_a, a), (kl_b, b) in itertools.pairwise(path):
        if (kl_a - at_most) * (kl_b - at_most) < 0:
            found.append(a + (b - a) * (at_most - kl_a) / (kl_b - kl_a))
    return max(found)


def area(kls: Sequence[float], effects: Sequence[float], at_most: float) -> float:
    """Mean effect over KLs from 0 to `at_most`, straight between the points in order of KL and from (0, 0) on, and
    held beyond the last."""
    order = np.argsort(kls, kind="stable")
    x, y = np.append(0.0, np.asarray(kls)[order]), np.append(0.0, np.asarray(effects)[order])
    inside = np.append(x[x < at_most], at_most)
    heights = np.append(y[x < at_most], np.interp(at_most, x, y))
    return float(np.trapezoid(heights, inside) / at_most)


def _nothing(_: Tensor, value: Tensor) -> Tensor:
    return value
