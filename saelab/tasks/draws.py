"""Balanced random choices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saelab.errors import check_seed


def generator(seed: int) -> torch.Generator:
    check_seed(seed)
    return torch.Generator().manual_seed(seed)


def even(n: int, values: Sequence[int], rng: torch.Generator) -> Tensor:
    """`[n]`, in random order, each value as often as any other, or once less."""
    shuffled = torch.tensor(list(values))[torch.randperm(len(values), generator=rng)]
    return shuffled[torch.randperm(n, generator=rng) % len(values)]


def even_pairs(n: int, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two columns `[n]` of numbers below `count`, never equal in a row, each even; all pairs are about as frequent."""
    turn = torch.randperm(n, generator=rng)
    first, distance = turn % count, 1 + torch.randperm(count - 1, generator=rng)[turn // count % (count - 1)]
    names = torch.randperm(count, generator=rng)
    return names[first], names[(first + distance) % count]


def others(avoided: Tensor, count: int, wanted: int, rng: torch.Generator) -> Tensor:
    """`[n, wanted]`: different numbers below `count` drawn evenly, none of the same row of `avoided`,
    `[n, k]`."""
    allowed = torch.ones(len(avoided), count).scatter_(1, avoided, 0.0)
    return torch.multinomial(allowed, wanted, generator=rng)


def halves(count: int) -> dict[str, range]:
    """Numbers below `count` as fillers of the two splits: words that stand side by side in a list go apart."""
    return {"train": range(0, count, 2), "test": range(1, count, 2)}


def thirds(count: int) -> dict[str, range]:
    """Numbers below `count` as attributes (`both` splits know them) and as fillers of the two splits."""
    return {"both": range(0, count, 3), "train": range(1, count, 3), "test": range(2, count, 3)}


def among(choice: range, avoided: Tensor, wanted: int, rng: torch.Generator) -> Tensor:
    """`[n, wanted]`: different numbers of `choice`, none of the same row of `avoided`, `[n, k]`, whatever else is
    there."""
    allowed = torch.ones(len(avoided), choice.stop).scatter_(1, avoided, 0.0)
    return torch.multinomial(allowed[:, torch.tensor(choice)], wanted, generator=rng) * choice.step + choice.start
