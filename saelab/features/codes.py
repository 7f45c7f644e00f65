"""What an index is built from: sparse codes of stored tokens, part by part, and the contexts they stand in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from saelab.activations.store import Contexts, Shard, Store
from saelab.features.spec import IndexSpec
from saelab.lm.windows import Split
from saelab.sae import SAE


@dataclass(frozen=True)
class Part:
    """Codes of some tokens, in any order.

    Attributes:
        context, position: `[tok]` int32: where each token stands.
        offsets: `[tok + 1]` int64; latents: `[nnz]` int32; values: `[nnz]` float32, none of them 0.
    """

    context: NDArray[np.int32]
    position: NDArray[np.int32]
    offsets: NDArray[np.int64]
    latents: NDArray[np.int32]
    values: NDArray[np.float32]

    @property
    def n_tokens(self) -> int:
        return len(self.context)


class Codes(Protocol):
    """Where codes come from. The same every time it is asked, so that an interrupted index goes on."""

    n_latents: int
    n_tokens: int
    context_length: int

    def parts(self) -> Sequence[int]:
        """Tokens of each part."""
        ...

    def part(self, number: int) -> Part: ...

    def contexts(self) -> Iterator[Contexts]:
        """All contexts, in order of their numbers."""
        ...


class StoredCodes:
    """Codes of an SAE on a store's tokens: a shard a part, the first ones that hold `spec.tokens`.

    Args:
        sae: in inference form; hook: what it reads.
    """

    def __init__(self, store: Store, sae: SAE, hook: str, spec: IndexSpec):
        self.store, self.sae, self.hook = store, sae, hook
        self.split: Split = spec.split
        self.shards = _first(store.of(spec.split), spec.tokens)
        self.n_latents = sae.n_latents
        self.n_tokens = sum(self.parts())
        self.context_length = int(next(iter(store.contexts(spec.split))).tokens.shape[1])

    def parts(self) -> Sequence[int]:
        return [shard.n_tokens for shard in self.shards]

    @torch.no_grad()
    def part(self, number: int) -> Part:
        tensors = self.store.read(self.shards[number])
        code = self.sae.encode(tensors[self.hook].to(self.sae.W_dec))
        active = code.active.cpu()
        nnz = active.numel()
        counts = torch.bincount(code.support.rows[:nnz].cpu()[active], minlength=code.n_tokens)
        return Part(
            tensors["context"].numpy(),
            tensors["position"].numpy(),
            np.concatenate([[0], counts.cumsum(0).numpy()]),
            code.latents[:nnz].cpu()[active].numpy(),
            code.values[:nnz].float().cpu()[active].numpy(),
        )

    def contexts(self) -> Iterator[Contexts]:
        last = max(shard.first_context + shard.n_contexts for shard in self.shards)
        left = last
        for part in self.store.contexts(self.split):
            if left <= 0:
                return
            yield part.part(0, left)
            left -= len(part.length)


def _first(shards: list[Shard], tokens: int | None) -> list[Shard]:
    """As many as hold `tokens`, and the rest of a window that was begun."""
    if tokens is None:
        return shards
    kept: list[Shard] = []
    for shard in shards:
        if sum(s.n_tokens for s in kept) >= tokens and kept[-1].last:
            break
        kept.append(shard)
    return kept
