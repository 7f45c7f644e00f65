"""What single latents, and unions of few, stand for: values of attributes, told by when they fire.

Source: Makelov, Lange and Nanda 2024 (arXiv 2405.08366), interpretability (axis 3). Deviation: F1 alone calls a latent
that always fires a good detector of any value that half of the examples have (2/3). Choices and thresholds therefore
go by `skill`, F1 above that of always firing; F1 is reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ALIVE, PURE, RECALL = 5, 0.9, 0.05
"""A latent counts from so many examples on; it is pure for a value that this share of its examples have, and that it
finds this share of."""
_CANDIDATES = 100


@dataclass(frozen=True, eq=False)
class Examples:
    """Which detectors fire on which examples, and what these say.

    Attributes:
        active: `[example, detector]` bool.
        labels: `[example]` int64 by attribute.
    """

    active: Tensor
    labels: Mapping[str, Tensor]

    def shuffled(self, seed: int) -> Examples:
        """The same with what they say exchanged among them."""
        order = torch.randperm(len(self.active), generator=torch.Generator().manual_seed(seed))
        return Examples(self.active, {name: label[order] for name, label in self.labels.items()})


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts over examples: of both `[value, detector]`, of firing `[detector]`, and of the value `[value]`."""

    both: Tensor
    fired: Tensor
    true: Tensor
    examples: int

    @classmethod
    def of(cls, active: Tensor, label: Tensor, n_values: int) -> Tally:
        cells = torch.nn.functional.one_hot(label, n_values).float()
        return cls(cells.T @ active.float(), active.sum(0).float(), cells.sum(0), len(label))

    def f1(self) -> Tensor:
        """`[value, detector]`."""
        return _f1(self.both, self.fired, self.true[:, None])

    def always(self) -> Tensor:
        """`[value]`: F1 of a detector that always fires."""
        return _f1(self.true, torch.tensor(self.examples), self.true)


def detectors(codes: Tensor) -> Tensor:
    """`[example, latent]` -> `[example, detector]` bool. Where some are negative, every latent is two detectors: above
    0, and behind all of these, below."""
    return torch.cat([codes > 0, codes < 0], 1) if bool((codes < 0).any()) else codes > 0


def skill(f1: Tensor, always: Tensor) -> Tensor:
    """F1 above that of always firing, as a share of what there is above: 0 is no better, 1 perfect."""
    return (f1 - always) / (1 - always).clamp_min(1e-9)


@dataclass(frozen=True, eq=False)
class Detected:
    """Each value of an attribute, `[value]`; nan where it does not occur among the examples for judging.

    Attributes:
        f1: of the best detector; skill: of that, above always firing.
        union_f1: of the union of detectors chosen one by one while F1 grows.
        pure: detectors that fire for this value alone, nearly (`PURE`, `RECALL`).
    """

    f1: Tensor
    skill: Tensor
    union_f1: Tensor
    pure: Tensor


def detect(choose: Examples, judge: Examples, attribute: str, n_values: int, *, union: int = 10) -> Detected:
    """How each value is found, by detectors chosen on some examples and judged on others.

    Args:
        union: detectors in a union at most.
    """
    seen = Tally.of(choose.active, choose.labels[attribute], n_values)
    held = Tally.of(judge.active, judge.labels[attribute], n_values)
    best = seen.f1().argmax(1)
    found = held.f1()[torch.arange(n_values), best]
    unions = torch.stack([_union_f1(choose, judge, attribute, value, seen, union) for value in range(n_values)])
    least = (RECALL * seen.true).clamp_min(ALIVE)[:, None]
    pure = (seen.both >= least) & (seen.both >= PURE * seen.fired)
    unknown = torch.where(held.true > 0, 0.0, torch.nan)
    return Detected(found + unknown, skill(found, held.always()) + unknown, unions + unknown, pure.sum(1))


def _union_f1(choose: Examples, judge: Examples, attribute: str, value: int, seen: Tally, most: int) -> Tensor:
    """`[]`: of the union with the best F1 that adding one detector after another comes to."""
    true = choose.labels[attribute] == value
    candidates = seen.f1()[value].topk(min(_CANDIDATES, choose.active.shape[1])).indices
    active, on = choose.active[:, candidates], torch.zeros_like(true)
    chosen: list[int] = []
    reached = 0.0
    while len(chosen) < most:
        tried = active | on[:, None]
        best, which = _f1((tried & true[:, None]).sum(0), tried.sum(0), true.sum()).max(0)
        if float(best) <= reached:
            break
        chosen.append(int(candidates[which]))
        on, reached = tried[:, which], float(best)
    found, held = judge.active[:, chosen].any(1), judge.labels[attribute] == value
    return _f1((found & held).sum(), found.sum(), held.sum())


KINDS = ("value", "two values together", "several values")
"""What a detector can stand for."""


@dataclass(frozen=True, eq=False)
class Described:
    """What each detector stands for best, `[detector]`.

    Attributes:
        alive: fires on at least `ALIVE` of the examples for choosing; the others have skill 0.
        f1, skill: of its property, on the examples for judging.
        kind: number of the property's kind in `KINDS`.
    """

    alive: Tensor
    f1: Tensor
    skill: Tensor
    kind: Tensor


def describe(choose: Examples, judge: Examples, sizes: Mapping[str, int], *, union: int = 10) -> Described:
    """The best property of each detector: a value of an attribute, one together with a value of an attribute that has
    two, or a union of up to `union` values of one attribute; chosen by skill on some examples, judged on others.

    Args:
        sizes: values of each attribute.
    """
    n = choose.active.shape[1]
    alive = choose.active.sum(0) >= ALIVE
    reached, f1, skilled = torch.full((n,), -torch.inf), torch.zeros(n), torch.zeros(n)
    kind = torch.zeros(n, dtype=torch.int64)
    for family in _families(sizes, union):
        properties = _best_unions(family.tally(choose), family.most)
        found, judged = _judge(family.tally(choose), *properties), _judge(family.tally(judge), *properties)
        better = alive & (found[1] > reached)
        reached = torch.where(better, found[1], reached)
        f1, skilled = torch.where(better, judged[0], f1), torch.where(better, judged[1], skilled)
        kind = torch.where(better, _kind(family, properties[1]), kind)
    return Described(alive, f1, skilled, kind)


@dataclass(frozen=True)
class _Family:
    """Properties that exclude each other: the values of one attribute, or of two taken together; `most` in a union."""

    sizes: Mapping[str, int]
    most: int

    def tally(self, on: Examples) -> Tally:
        label = torch.zeros(len(on.active), dtype=torch.int64)
        for name, size in self.sizes.items():
            label = label * size + on.labels[name]
        return Tally.of(on.active, label, math.prod(self.sizes.values()))


def _families(sizes: Mapping[str, int], union: int) -> Iterator[_Family]:
    for name, size in sizes.items():
        yield _Family({name: size}, max(min(union, size - 1), 1))
        for other, two in sizes.items():
            if two == 2 and other != name:
                yield _Family({name: size, other: two}, 1)


def _best_unions(seen: Tally, most: int) -> tuple[Tensor, Tensor]:
    """`[rank, detector]` values of a family, those that a detector fires on most reliably first, and bool: which of
    them make the union of the best skill."""
    values = (seen.both / seen.true.clamp_min(1)[:, None]).topk(most, 0).indices
    both, true = seen.both.gather(0, values).cumsum(0), seen.true[values].cumsum(0)
    always = _f1(true, torch.tensor(seen.examples), true)
    length = skill(_f1(both, seen.fired, true), always).argmax(0)
    return values, torch.arange(most)[:, None] <= length


def _judge(on: Tally, values: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """`[detector]` twice: F1 and skill of unions."""
    both, true = (on.both.gather(0, values) * taken).sum(0), (on.true[values] * taken).sum(0)
    f1 = _f1(both, on.fired, true)
    return f1, skill(f1, _f1(true, torch.tensor(on.examples), true))


def _kind(family: _Family, taken: Tensor) -> Tensor:
    return torch.where(taken.sum(0) > 1, 2, len(family.sizes) - 1)


def _f1(both: Tensor, fired: Tensor, true: Tensor) -> Tensor:
    """`2 TP / (2 TP + FP + FN)`, 0 where there is nothing to find and nothing fires."""
    return 2 * both / (fired + true).clamp_min(1)
