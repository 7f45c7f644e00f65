"""Replacing one head's (or MLP's) output at a time and looking at the answer: what other methods approximate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saelab.circuits.anatomy import mlp_hook, stream_hook, z_hook
from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes, repeated
from saelab.circuits.scores import Report, Scores, quiet
from saelab.lm.model import LanguageModel
from saelab.lm.resume import NamedHook
from saelab.tasks import Prompts

Others = Callable[[Pairs], dict[str, Tensor]]
"""What hooks carry in place of their own, by hook, `[row, position, ...]`, for some pairs."""


@dataclass(frozen=True)
class ActivationPatching:
    """The loss of score where one component of the clean run carries what it carries in the corrupted run, at every
    position, and all after it follows ("noising", resample ablation). Exact: one pass for each component and prompt.

    Each pass begins at the patched layer, and components of a layer run as rows of one batch.

    Attributes:
        mlps: score these too.
        batch_prompts: prompts at once; a batch has as many rows for each head of a layer.
    """

    mlps: bool = False
    batch_prompts: int = 16

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        names = _outputs(passes, self.mlps)
        return _each(
            "patching",
            passes,
            lambda some: passes.record(some.corrupted, names).values,
            _Run(self.batch_prompts, self.mlps, report),
        )


@dataclass(frozen=True)
class Denoising:
    """The gain of score where one component of the corrupted run carries what it carries in the clean run; otherwise as
    `ActivationPatching`. Finds what suffices, where that finds what is needed."""

    mlps: bool = False
    batch_prompts: int = 16

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        names = _outputs(passes, self.mlps)
        reverse = Passes(lm, Pairs(pairs.task, pairs.metric, pairs.corrupted, pairs.clean))
        reverse.cost = passes.cost
        found = _each(
            "denoising",
            reverse,
            lambda some: reverse.record(some.corrupted, names).values,
            _Run(self.batch_prompts, self.mlps, report),
        )
        samples = None if found.samples is None else -found.samples
        return Scores("denoising", -found.heads, found.cost, True, _negative(found.mlps), None, samples)


@dataclass(frozen=True)
class MeanAblation:
    """The loss of score where one component carries its mean over all tokens of the clean and corrupted prompts but
    their first, at every position but the first."""

    mlps: bool = False
    batch_prompts: int = 16

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        means = component_means(passes, _outputs(passes, self.mlps), self.batch_prompts)
        return _each(
            "mean_ablation", passes, lambda some: spread(means, some), _Run(self.batch_prompts, self.mlps, report)
        )


def component_means(passes: Passes, names: list[str], batch_prompts: int = 16) -> dict[str, Tensor]:
    """By hook, the mean over all tokens of clean and corrupted prompts but each prompt's first, float32."""
    total: dict[str, Tensor] = {}
    count = 0
    for _, some in passes.pairs.batches(batch_prompts):
        for prompts in (some.clean, some.corrupted):
            counted = _counted(prompts)
            count += int(counted.sum())
            for name, value in passes.record(prompts, names).values.items():
                total[name] = total.get(name, 0) + value[counted.to(value.device)].float().sum(0)
    return {name: value / count for name, value in total.items()}


def _counted(prompts: Prompts) -> Tensor:
    """`[row, position]`: tokens that are real and not the first."""
    position = torch.arange(prompts.tokens.shape[1])
    return (position > 0) & (position <= prompts.end[:, None])


def spread(means: dict[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
    """Means as what hooks carry at every position; nothing (NaN) at the first, which keeps its own."""
    rows, positions = pairs.clean.tokens.shape
    found = {name: mean.expand(rows, positions, *mean.shape).clone() for name, mean in means.items()}
    for value in found.values():
        value[:, 0] = torch.nan
    return found


@dataclass(frozen=True)
class _Run:
    batch_prompts: int
    mlps: bool
    report: Report


def _outputs(passes: Passes, mlps: bool) -> list[str]:
    layers = range(passes.anatomy.n_layers)
    with_mlps = mlps and passes.anatomy.has_mlps
    return [z_hook(layer) for layer in layers] + [mlp_hook(layer) for layer in layers if with_mlps]


def _each(method: str, passes: Passes, others: Others, run: _Run) -> Scores:
    """Replace each component in turn in the clean run; its score minus what is left."""
    pairs, anatomy = passes.pairs, passes.anatomy
    heads = torch.zeros(len(pairs), anatomy.n_layers, anatomy.n_heads)
    mlps = torch.zeros(len(pairs), anatomy.n_layers)
    done = 0
    for rows, some in pairs.batches(run.batch_prompts):
        instead = others(some)
        clean = passes.record(some.clean, [stream_hook(layer) for layer in range(anatomy.n_layers)])
        for layer in range(anatomy.n_layers):
            stream = clean.values[stream_hook(layer)]
            left = _heads_replaced(passes, some.clean, stream, layer, instead[z_hook(layer)])
            heads[rows, layer] = (clean.scores - left).T
            if mlp_hook(layer) in instead:
                hook = replacing(mlp_hook(layer), instead[mlp_hook(layer)])
                mlps[rows, layer] = clean.scores - passes.rerun(some.clean, stream, layer, [hook])
            done += len(rows)
            run.report(done, len(pairs) * anatomy.n_layers)
    scored = run.mlps and anatomy.has_mlps
    return Scores(method, heads.mean(0), passes.cost.stop(), True, mlps.mean(0) if scored else None, None, heads)


def _heads_replaced(passes: Passes, prompts: Prompts, stream: Tensor, layer: int, instead: Tensor) -> Tensor:
    """`[head, row]` scores with each head of a layer replaced."""
    n, rows = passes.anatomy.n_heads, len(prompts)

    def edit(value: Tensor, hook: Any) -> Tensor:
        edited = value.clone().unflatten(0, (n, rows))
        for head in range(n):
            edited[head, :, :, head] = merged(edited[head, :, :, head], instead[:, :, head])
        return edited.flatten(0, 1)

    several = repeated(prompts, n)
    return passes.rerun(several, stream.repeat(n, 1, 1), layer, [(z_hook(layer), edit)]).view(n, rows)


def replacing(name: str, instead: Tensor) -> NamedHook:
    """A hook that carries `instead`, where that is a number."""
    return name, lambda value, hook: merged(value, instead)


def merged(value: Tensor, instead: Tensor) -> Tensor:
    """`instead` where it is a number, else `value`."""
    new = instead.to(value)
    return torch.where(new.isnan(), value, new)


def _negative(values: Tensor | None) -> Tensor | None:
    return None if values is None else -values
