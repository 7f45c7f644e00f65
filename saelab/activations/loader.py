"""Batches from a store: slices of many shards, mixed at a time, rows permuted within.

The order is a pure function of the seed, so the state of a loader is one number: the rows it has served.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from saelab.activations.store import Shard, Store, loss_grad_name
from saelab.errors import SaelabError, check_seed
from saelab.files import read_ahead
from saelab.lm.windows import Split

_SHARDS, _ROWS, _SLICES = 1, 2, 3
"""Purposes, so that the permutations draw from different streams of the same seed."""
_MOST_SLICES = 16
"""A shard is cut into at most so many: more would mix further, and read less at once."""
_ORDER = 2
"""Of the rows, counted up where it changes: a checkpoint of another one cannot be gone on with to the same bits."""


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
        mix_shards: shards' worth of a store's rows held in memory and mixed at a time.
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

    def empty(self, store: Store, rows: int, *, pin: bool = False) -> dict[str, Tensor]:
        """Room for `rows` rows, one tensor a column."""
        width = {self.input: store.width(self.input), self.target: store.width(self.target)}
        if self.loss_grad is not None:
            width[self.loss_grad] = store.width(self.target)
        return {name: torch.empty(rows, d, dtype=store.dtype, pin_memory=pin) for name, d in width.items()}

    def batch(self, tensors: Mapping[str, Tensor]) -> Batch:
        side = {} if self.loss_grad is None else {"loss_grad": tensors[self.loss_grad]}
        return Batch(tensors[self.input], tensors[self.target], side)


@dataclass(frozen=True)
class _Slice:
    """Neighbouring rows of a shard. They were shuffled when they were written, so they are as good a sample as any."""

    shard: Shard
    begin: int
    end: int

    @classmethod
    def cut(cls, shard: Shard, number: int, of: int) -> _Slice:
        """One of `of` slices that make up the shard."""
        return cls(shard, shard.n_tokens * number // of, shard.n_tokens * (number + 1) // of)

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class _Block:
    """The slices that are mixed, and where they stand in the endless sequence of rows.

    Attributes:
        key: the epoch, the group of shards that are cut and mixed, and the number of the block among the group's.
        start: rows served before its first.
    """

    key: tuple[int, int, int]
    slices: list[_Slice]
    start: int

    @property
    def size(self) -> int:
        return sum(map(len, self.slices))

    def __contains__(self, row: int) -> bool:
        return self.start <= row < self.start + self.size


class Loader:
    """Endless training batches of `batch_tokens` rows; a batch may cross blocks and epochs.

    A block of memory holds as many rows as `mix_shards` shards, but of up to sixteen times as many: each shard is
    cut into slices, and a block takes one of each. Slices are read one after another, while the operating system reads
    the next block's ahead.

    Args:
        store: where rows come from (its train split).
        hook: input; target_hook: what is to be reconstructed (None: the input).
        batch_tokens: rows per batch.
        mix_shards: shards' worth of rows held in memory and mixed at a time.
        seed: of the order.
        loss_grad: serve gradients as well.
        pin: make batches in page-locked memory, from where a GPU copies them while it computes.

    Raises:
        SaelabError: the store lacks a hook, gradients or training tokens; later, a shard is damaged.
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
        pin: bool = False,
    ):
        self.store, self.pin = store, pin
        self.batch_tokens, self.mix_shards, self.seed = batch_tokens, mix_shards, seed
        self.shards = store.of("train")
        self.epoch_tokens = store.n_tokens("train")
        self.served = 0
        self._current: tuple[_Block, Tensor] | None = None
        if batch_tokens < 1 or mix_shards < 1:
            raise SaelabError(f"batch_tokens {batch_tokens} and mix_shards {mix_shards} must be at least 1")
        check_seed(seed)
        self._columns = Columns.of(store, hook, target_hook, loss_grad=loss_grad)
        if not self.shards:
            raise SaelabError("this store has no training tokens", where=str(store.directory))

    @classmethod
    def of(cls, store: Store, wanted: Wanted) -> Loader:
        """The loader that serves what a trainer asks for."""
        return cls(store, **asdict(wanted))

    def state_dict(self) -> dict[str, int]:
        return {"served_tokens": self.served, "seed": self.seed, "order": _ORDER}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["seed"] != self.seed:
            raise SaelabError(f"this state is of seed {state['seed']}, the loader's is {self.seed}")
        if state.get("order") != _ORDER:
            raise SaelabError(
                "this state is of another version of saelab, whose loader serves rows in another order",
                fix="go on with that version, or start over with --fresh",
            )
        self.served = state["served_tokens"]

    def close(self) -> None:
        self._current = None
        self.__dict__.pop("_memory", None)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self._columns.empty(self.store, self.batch_tokens, pin=self.pin)
        filled = 0
        while filled < self.batch_tokens:
            block, order = self._read(self.served + filled)
            first = self.served + filled - block.start
            rows = order[first : first + self.batch_tokens - filled]
            for name, column in batch.items():
                torch.index_select(self._memory[name], 0, rows, out=column[filled : filled + len(rows)])
            filled += len(rows)
        self.served += filled
        return self._columns.batch(batch)

    @cached_property
    def _groups(self) -> int:
        """Shards are permuted and dealt into so many groups, as equal as can be; a group's slices are mixed."""
        return math.ceil(len(self.shards) / (self.mix_shards * _MOST_SLICES))

    @cached_property
    def _group_shards(self) -> int:
        """Of the largest group."""
        return math.ceil(len(self.shards) / self._groups)

    @cached_property
    def _parts(self) -> int:
        """Slices of a shard, and blocks of a group."""
        return math.ceil(self._group_shards / self.mix_shards)

    @cached_property
    def _memory(self) -> dict[str, Tensor]:
        """The rows of the block being served; there is room for the largest."""
        largest = sorted((shard.n_tokens for shard in self.shards), reverse=True)
        rows = sum(math.ceil(n_tokens / self._parts) for n_tokens in largest[: self._group_shards])
        return self._columns.empty(self.store, rows)

    def _read(self, row: int) -> tuple[_Block, Tensor]:
        """The block that holds a row of the endless sequence, and the order its rows are served in; its rows are
        in memory afterwards."""
        if self._current is None or row not in self._current[0]:
            self._current = None  # an error must not leave half of another block behind
            block = self._locate(row)
            self._fill(block)
            order = np.random.default_rng([self.seed, _ROWS, *block.key]).permutation(block.size)
            self._current = block, torch.from_numpy(order)
            self._read_ahead(self._locate(block.start + block.size))
        return self._current

    def _locate(self, row: int) -> _Block:
        epoch, rest = divmod(row, self.epoch_tokens)
        order = np.random.default_rng([self.seed, _SHARDS, epoch]).permutation(len(self.shards))
        start = row - rest
        for group, members in enumerate(np.array_split(order, self._groups)):
            shards = [self.shards[i] for i in members]
            size = sum(shard.n_tokens for shard in shards)
            if row < start + size:
                return next(block for block in self._blocks(epoch, group, shards, start) if row in block)
            start += size
        raise AssertionError("unreachable: the groups of an epoch add up to it")

    def _blocks(self, epoch: int, group: int, shards: list[Shard], start: int) -> Iterator[_Block]:
        """A group's, each with one slice of every shard; which ones meet is drawn anew for every epoch."""
        rng = np.random.default_rng([self.seed, _SLICES, epoch, group])
        turns = rng.permuted(np.tile(np.arange(self._parts), (len(shards), 1)), axis=1)
        for number, turn in enumerate(turns.T.tolist()):
            slices = [_Slice.cut(shard, part, self._parts) for shard, part in zip(shards, turn, strict=True)]
            block = _Block((epoch, group, number), slices, start)
            yield block
            start += block.size

    def _fill(self, block: _Block) -> None:
        filled = 0
        for part in block.slices:
            tensors = self.store.read(part.shard)
            for name, column in self._memory.items():
                column[filled : filled + len(part)].copy_(tensors[name][part.begin : part.end])
            filled += len(part)

    def _read_ahead(self, block: _Block) -> None:
        for part in block.slices:
            read_ahead(self.store.directory / part.shard.file, self._memory, range(part.begin, part.end))


def stored(
    store: Store, split: Split, hook: str, *, target_hook: str | None = None, loss_grad: bool = False
) -> Iterator[Batch]:
    """A split once, shard by shard in stored order; with gradients where asked for."""
    columns = Columns.of(store, hook, target_hook, loss_grad=loss_grad)
    for shard in store.of(split):
        yield columns.batch(store.read(shard))
