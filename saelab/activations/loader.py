"""Batches from a store: shards in a permuted order, a few mixed at a time, rows permuted within.

The order is a pure function of the seed, so the state of a loader is one number: the rows it has served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from saelab.activations.store import Shard, Store, loss_grad_name
from saelab.errors import SaelabError, check_seed
from saelab.lm.windows import Split

_SHARDS, _ROWS = 1, 2
"""Purposes, so that the two permutations draw from different streams of the same seed."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Activations to learn from, in raw units and the store's dtype.

    Attributes:
        input: `[tok, d_in]`.
        target: `[tok, d_out]`; the same tensor for an autoencoder.
        side: what stands beside them, by name, a row a token. `loss_grad` `[tok, d_out]`, where asked for: the
            gradient of the context's summed next-token loss with respect to the target.
    """

    input: Tensor
    target: Tensor
    side: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What training asks of a source of batches.

    Attributes:
        hook: input; target_hook: what is to be reconstructed (None: the input).
        loss_grad: serve gradients as well.
        batch_tokens: rows per batch.
        mix_shards: shards of a store held in memory and mixed at a time.
        seed: of the order.
        pin: make batches in pinned memory, from where CUDA copies them while it computes.
    """

    hook: str
    target_hook: str | None
    loss_grad: bool
    batch_tokens: int
    mix_shards: int
    seed: int
    pin: bool = False


class Batches(Protocol):
    """Endless training batches that can stop and go on anywhere."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]:
        """Where whoever takes the batches is; JSON-able."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Serve exactly what followed that state."""
        ...

    def close(self) -> None:
        """Let go of threads and memory; the state stays."""
        ...


@dataclass(frozen=True)
class Columns:
    """The names in a shard of what a batch is made of."""

    input: str
    target: str
    loss_grad: str | None

    @classmethod
    def of(cls, store: Store, hook: str, target_hook: str | None, *, loss_grad: bool) -> Columns:
        """Raises SaelabError where the store lacks one of them."""
        target = hook if target_hook is None else target_hook
        for name in (hook, target):
            store.width(name)
        if loss_grad:
            store.expect_loss_grad()
        return cls(hook, target, loss_grad_name(target) if loss_grad else None)

    @property
    def names(self) -> list[str]:
        """Each once."""
        gradients = [] if self.loss_grad is None else [self.loss_grad]
        return list(dict.fromkeys([self.input, self.target, *gradients]))

    def join(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The rows of all parts, one tensor a column."""
        return {name: torch.cat([part[name] for part in parts]) for name in self.names}

    def batch(self, tensors: Mapping[str, Tensor]) -> Batch:
        side = {} if self.loss_grad is None else {"loss_grad": tensors[self.loss_grad]}
        return Batch(tensors[self.input], tensors[self.target], side)


@dataclass(frozen=True)
class _Block:
    """A few shards together, with the order in which their rows are served."""

    columns: dict[str, Tensor]
    order: Tensor


class Loader:
    """Endless training batches of `batch_tokens` rows; a batch may cross blocks and epochs.

    Args:
        store: where rows come from (its train split).
        hook: input; target_hook: what is to be reconstructed (None: the input).
        batch_tokens: rows per batch.
        mix_shards: shards held in memory and mixed at a time.
        seed: of the order.
        loss_grad: serve gradients as well.

    Raises:
        SaelabError: the store lacks a hook, gradients or training tokens.
    """

    def __init__(
        self,
        store: Store,
        hook: str,
        *,
        batch_tokens: int,
        target_hook: str | None = None,
        mix_shards: int = 4,
        seed: int = 0,
        loss_grad: bool = False,
    ):
        self.store = store
        self.batch_tokens, self.mix_shards, self.seed = batch_tokens, mix_shards, seed
        self.shards = store.of("train")
        self.epoch_tokens = store.n_tokens("train")
        self.served = 0
        self._key: tuple[int, int] | None = None
        self._block: _Block | None = None
        if batch_tokens < 1 or mix_shards < 1:
            raise SaelabError(f"batch_tokens {batch_tokens} and mix_shards {mix_shards} must be at least 1")
        check_seed(seed)
        self._columns = Columns.of(store, hook, target_hook, loss_grad=loss_grad)
        if not self.shards:
            raise SaelabError("this store has no training tokens", where=str(store.directory))

    def state_dict(self) -> dict[str, int]:
        return {"served_tokens": self.served, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["seed"] != self.seed:
            raise SaelabError(f"this state is of seed {state['seed']}, the loader's is {self.seed}")
        self.served = state["served_tokens"]

    def close(self) -> None:
        """There is nothing to let go of."""

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        parts: list[dict[str, Tensor]] = []
        wanted = self.batch_tokens
        while wanted:
            block, start = self._locate()
            rows = block.order[start : start + wanted]
            parts.append({name: column[rows] for name, column in block.columns.items()})
            wanted -= rows.numel()
            self.served += rows.numel()
        return self._columns.batch(parts[0] if len(parts) == 1 else self._columns.join(parts))

    def _locate(self) -> tuple[_Block, int]:
        """The block that holds the next row, and where in its order."""
        epoch, rest = divmod(self.served, self.epoch_tokens)
        order = np.random.default_rng([self.seed, _SHARDS, epoch]).permutation(len(self.shards))
        for number in range(0, len(order), self.mix_shards):
            shards = [self.shards[i] for i in order[number : number + self.mix_shards]]
            size = sum(shard.n_tokens for shard in shards)
            if rest < size:
                return self._load((epoch, number), shards, size), rest
            rest -= size
        raise AssertionError("unreachable: the blocks of an epoch add up to it")

    def _load(self, key: tuple[int, int], shards: list[Shard], size: int) -> _Block:
        if self._block is None or self._key != key:
            self._block = None  # let the old block go before the new one is read
            columns = self._columns.join([self.store.read(shard) for shard in shards])
            order = np.random.default_rng([self.seed, _ROWS, *key]).permutation(size)
            self._key, self._block = key, _Block(columns, torch.from_numpy(order))
        return self._block


def stored(
    store: Store, split: Split, hook: str, *, target_hook: str | None = None, loss_grad: bool = False
) -> Iterator[Batch]:
    """A split once, shard by shard in stored order; with gradients where asked for."""
    columns = Columns.of(store, hook, target_hook, loss_grad=loss_grad)
    for shard in store.of(split):
        yield columns.batch(store.read(shard))
