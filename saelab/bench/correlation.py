"""How alike the rows of a training batch are: of an order that is as good as any, no more than chance makes them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saelab.activations.loader import Batches
from saelab.activations.store import Store

_MOST_BATCHES = 500
"""That are looked at, evenly over an epoch."""
_GATHERED = 32
"""Batches gathered at once."""
_SEED = 10**6
"""Of the global order; far from what a loader is likely to have."""


def within_batch_correlation(rows: Tensor, mean: Tensor) -> float:
    """Mean cosine over all pairs of rows, centred.

    For unit rows u, `|sum u|^2 = n + sum over pairs of u_i . u_j`, so no pair is looked at.

    Args:
        rows: `[tok, d]`, two or more.
        mean: `[d]`, of all activations.
    """
    units = torch.nn.functional.normalize(rows.float() - mean, dim=1)
    n = len(units)
    return (float(units.sum(0).double().square().sum()) - n) / (n * (n - 1))


@dataclass(frozen=True)
class Correlation:
    """Of the batches of one order: a value a batch."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def standard_error(self) -> float:
        return statistics.stdev(self.values) / math.sqrt(len(self.values))

    def excess(self, other: Correlation) -> float:
        """How far it lies above the other, in standard errors of the difference."""
        return (self.mean - other.mean) / math.hypot(self.standard_error, other.standard_error)


@dataclass(frozen=True)
class Orders:
    """Within-batch correlation of one store's training rows in three orders.

    Attributes:
        loader: as training gets them, over a number of epochs.
        shuffled: of as many permutations of all rows.
        in_order: as the text runs, context after context.
    """

    loader: Correlation
    shuffled: Correlation
    in_order: Correlation


def compare(store: Store, hook: str, batches: Batches, batch_tokens: int, *, epochs: int = 1) -> Orders:
    """Two batches an order or more.

    Args:
        batches: of `batch_tokens` training rows each, from the beginning of an epoch.
        epochs: one order may mix better than another by luck.

    Raises:
        ValueError: the store does not hold two batches.
    """
    in_an_epoch = store.n_tokens("train") // batch_tokens
    n_batches = min(in_an_epoch, _MOST_BATCHES)
    if n_batches < 2:
        raise ValueError(f"{store.n_tokens('train')} training tokens make no two batches of {batch_tokens}")
    mean = store.mean(hook)
    evenly = [number * in_an_epoch // n_batches for number in range(n_batches)]
    looked_at = set(evenly)

    def of(rows: Iterable[Tensor]) -> Correlation:
        return Correlation(tuple(within_batch_correlation(each, mean) for each in rows))

    def of_orders(orders: Iterable[np.ndarray]) -> Correlation:
        picked = [order[number * batch_tokens : (number + 1) * batch_tokens] for order in orders for number in evenly]
        return of(
            rows
            for at in range(0, len(picked), _GATHERED)
            for rows in _gather(store, hook, picked[at : at + _GATHERED])
        )

    served = (next(batches) for _ in range(epochs * in_an_epoch))
    rng, rows = np.random.default_rng(_SEED), store.n_tokens("train")
    return Orders(
        loader=of(batch.input for number, batch in enumerate(served) if number % in_an_epoch in looked_at),
        shuffled=of_orders(rng.permutation(rows) for _ in range(epochs)),
        in_order=of_orders([_text_order(store)]),
    )


def _text_order(store: Store) -> np.ndarray:
    """Training rows by their place among all shards, in the order of contexts and positions."""
    parts = [store.read(shard) for shard in store.of("train")]
    context, position = (torch.cat([part[name] for part in parts]).numpy() for name in ("context", "position"))
    return np.lexsort((position, context))


def _gather(store: Store, hook: str, picked: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Batches of training rows, each by its place among all shards."""
    places = torch.from_numpy(np.concatenate(picked))
    rows = torch.empty(len(places), store.width(hook))
    first = 0
    for shard in store.of("train"):
        here = (places >= first) & (places < first + shard.n_tokens)
        rows[here] = store.read(shard)[hook][places[here] - first].float()
        first += shard.n_tokens
    return iter(rows.split([len(each) for each in picked]))
