"""Passes over prompts: what components carried, and what the metric says of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from saelab.circuits.anatomy import Anatomy, stream_hook
from saelab.circuits.pairs import Pairs
from saelab.circuits.scores import Cost
from saelab.lm.model import LanguageModel
from saelab.lm.resume import NamedHook, logits_at
from saelab.tasks import Answers, Metric, Prompts


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a pass carried.

    Attributes:
        values: by hook; `[row, position, ...]`.
        scores: `[row]` float32, of the metric.
    """

    values: dict[str, Tensor]
    scores: Tensor


class Passes:
    """Runs a model on pairs and counts what it costs."""

    def __init__(self, lm: LanguageModel, pairs: Pairs):
        self.lm, self.pairs = lm, pairs
        self.cost = Cost(prompts=2 * len(pairs))

    @cached_property
    def anatomy(self) -> Anatomy:
        return Anatomy.of(self.lm)

    @torch.no_grad()
    def record(self, prompts: Prompts, names: Sequence[str]) -> Recorded:
        """Run prompts as they are."""
        values: dict[str, Tensor] = {}

        def keep(name: str) -> NamedHook:
            return name, lambda value, hook: values.update({name: value})

        logits = logits_at(self.lm, prompts.tokens, prompts.end, hooks=[keep(name) for name in names])
        self.cost.forwards += len(prompts)
        return Recorded(values, score(logits, prompts, self.pairs.metric).cpu())

    @torch.no_grad()
    def rerun(self, prompts: Prompts, stream: Tensor, block: int, hooks: Sequence[NamedHook]) -> Tensor:
        """`[row]` scores of prompts that enter a block with `[row, position, d_model]`, edited from there on."""
        logits = logits_at(self.lm, stream, prompts.end, block=block, hooks=hooks)
        self.cost.forwards += len(prompts) * (1 - block / self.anatomy.n_layers)
        return score(logits, prompts, self.pairs.metric).cpu()

    @torch.no_grad()
    def edited(self, prompts: Prompts, hooks: Sequence[NamedHook]) -> Tensor:
        """`[row]` scores of prompts whose whole pass is edited."""
        logits = logits_at(self.lm, prompts.tokens, prompts.end, hooks=hooks)
        self.cost.forwards += len(prompts)
        return score(logits, prompts, self.pairs.metric).cpu()

    def gradients(
        self, prompts: Prompts, stream: Tensor, names: Sequence[str], hooks: Sequence[NamedHook] = ()
    ) -> tuple[Recorded, dict[str, Tensor]]:
        """Run prompts from the first block's input `[row, position, d_model]`; what each hook carried, and the
        gradient of the summed scores with respect to what flows on from it."""
        values: dict[str, Tensor] = {}

        def keep(name: str) -> NamedHook:
            def read(value: Tensor, hook: Any) -> Tensor:
                values[name] = value.view_as(value)  # a view of its own: what bypasses this hook must not count
                return values[name]

            return name, read

        with torch.enable_grad():
            start = stream.detach().clone().requires_grad_()
            logits = logits_at(self.lm, start, prompts.end, block=0, hooks=[*hooks, *(keep(name) for name in names)])
            scores = score(logits, prompts, self.pairs.metric)
            found = torch.autograd.grad(scores.sum(), [values[name] for name in names])
        self.cost.forwards += len(prompts)
        self.cost.backwards += len(prompts)
        recorded = Recorded({name: value.detach() for name, value in values.items()}, scores.detach().cpu())
        return recorded, dict(zip(names, found, strict=True))

    def first_streams(self, prompts: Prompts) -> Tensor:
        """What enters the first block; part of a pass that is not counted."""
        hook = self.lm.hook(stream_hook(0))
        return self.lm.capture(prompts.tokens, [hook])[hook.name]


def score(logits: Tensor, prompts: Prompts, metric: Metric) -> Tensor:
    """`[row]` of `[row, vocabulary]`, as `saelab.tasks` scores answers; gradients flow."""
    chosen = logits.float().log_softmax(-1)[:, prompts.answers.to(logits.device)]
    return Answers(chosen.cpu(), torch.empty(0)).score(prompts, metric)


def repeated(prompts: Prompts, times: int) -> Prompts:
    """All prompts, one after the other, `times` times."""
    return Prompts(
        prompts.tokens.repeat(times, 1),
        prompts.end.repeat(times),
        prompts.answers,
        prompts.right.repeat(times, 1),
        prompts.wrong.repeat(times, 1),
        {},
    )
