"""Batches from a store: shards in a permuted order, a few mixed at a time, rows permuted within.

The order is a pure function of the seed, so the state of a loader is one number: the rows it has served.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from saelab.activations.store import Shard, Store
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
        side: what stands beside them, by name, a row a token: `loss_grad` `[tok, d_in]`.
    """

    input: Tensor
    target: Tensor
    side: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class _Block:
    """A few shards together, with the order in which their rows are served."""

    input: Tensor
    target: Tensor
    order: Tensor


class Loader:
    """Endless training batches of `batch_tokens` rows; a batch may cross blocks and epochs.

    Args:
        store: where rows come from (its train split).
        hook: input; target_hook: what is to be reconstructed (None: the input).
        batch_tokens: rows per batch.
        mix_shards: shards held in memory and mixed at a time.
        seed: of the order.
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
        side: Collection[str] = (),
    ):
        self.store, self.hook, self.target_hook = store, hook, target_hook
        self.batch_tokens, self.mix_shards, self.seed = batch_tokens, mix_shards, seed
        self.shards = store.of("train")
        self.epoch_tokens = store.n_tokens("train")
        self.served = 0
        self._key: tuple[int, int] | None = None
        self._block: _Block | None = None
        if batch_tokens < 1 or mix_shards < 1:
            raise SaelabError(f"batch_tokens {batch_tokens} and mix_shards {mix_shards} must be at least 1")
        check_seed(seed)
        store.width(hook)
        if target_hook is not None:
            store.width(target_hook)
        if not self.shards:
            raise SaelabError("this store has no training tokens", where=str(store.directory))

    def state_dict(self) -> dict[str, int]:
        return {"served_tokens": self.served, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state["seed"] != self.seed:
            raise SaelabError(f"this state is of seed {state['seed']}, the loader's is {self.seed}")
        self.served = state["served_tokens"]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        inputs: list[Tensor] = []
        targets: list[Tensor] = []
        wanted = self.batch_tokens
        while wanted:
            block, start = self._locate()
            rows = block.order[start : start + wanted]
            inputs.append(block.input[rows])
            targets.append(inputs[-1] if block.target is block.input else block.target[rows])
            wanted -= rows.numel()
            self.served += rows.numel()
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        if self.target_hook is None:
            return Batch(x, x)
        return Batch(x, targets[0] if len(targets) == 1 else torch.cat(targets))

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
            parts = [self.store.read(shard) for shard in shards]
            x = torch.cat([part[self.hook] for part in parts])
            target = x if self.target_hook is None else torch.cat([part[self.target_hook] for part in parts])
            order = np.random.default_rng([self.seed, _ROWS, *key]).permutation(size)
            self._key, self._block = key, _Block(x, target, torch.from_numpy(order))
        return self._block


def stored(
    store: Store, split: Split, hook: str, *, target_hook: str | None = None, side: Collection[str] = ()
) -> Iterator[Batch]:
    """A split once, shard by shard in stored order."""
    for shard in store.of(split):
        tensors = store.read(shard)
        x = tensors[hook]
        yield Batch(x, x if target_hook is None else tensors[target_hook])
