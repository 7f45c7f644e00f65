"""Codes turned around: from tokens and their latents to latents and their tokens, on disk.

Activations come shuffled, and what is kept of a latent needs all its tokens in order. So every part of the codes is
written once, sorted by latent (`part-00000.safetensors`: `offsets` [latents + 1], `key` = context * length +
position and `value` per entry), and a block of latents is then read from all parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saelab.errors import SaelabError
from saelab.features.bundle import mapped
from saelab.features.codes import Codes
from saelab.files import write_tensors

_BLOCK_ENTRIES = 4_000_000
"""Entries of a block of latents, but for one that alone has more: about 40 bytes of memory each."""
_BLOCK_LATENTS = 4096


@dataclass(frozen=True)
class Entries:
    """All entries of consecutive latents, by latent, then context, then position.

    Attributes:
        first: the first latent; offsets: `[latents + 1]`; latent: `[nnz]`, counted from `first`;
            key: `[nnz]` int64, context * length + position; value: `[nnz]` float32.
    """

    first: int
    offsets: NDArray[np.int64]
    latent: NDArray[np.int64]
    key: NDArray[np.int64]
    value: NDArray[np.float32]

    @property
    def n_latents(self) -> int:
        return len(self.offsets) - 1


def part_file(work: Path, number: int) -> Path:
    return work / f"part-{number:05}.safetensors"


def spill(codes: Codes, number: int, work: Path, sampled: int) -> None:
    """Write one part, sorted by latent, and the latents of `sampled` of its tokens, spread evenly, as they are."""
    from scipy.sparse import csr_array

    part = codes.part(number)
    if int(part.context.max(initial=0)) * codes.context_length > 2**31 - codes.context_length:
        raise SaelabError("more contexts than an index can number", fix="index: {tokens: ...} takes fewer")
    by_token = csr_array((part.values, part.latents, part.offsets), shape=(part.n_tokens, codes.n_latents))
    by_latent = by_token.tocsc()
    key = part.context.astype(np.int32) * np.int32(codes.context_length) + part.position.astype(np.int32)
    rows = np.linspace(0, part.n_tokens - 1, min(sampled, part.n_tokens)).round().astype(np.int64)
    sample = by_token[rows]
    arrays = {
        "offsets": by_latent.indptr.astype(np.int64),
        "key": key[by_latent.indices],
        "value": by_latent.data.astype(np.float32),
        "sample_offsets": sample.indptr.astype(np.int64),
        "sample_latents": sample.indices.astype(np.int32),
        "positions": np.bincount(part.position, minlength=codes.context_length),
    }
    write_tensors(part_file(work, number), {name: torch.from_numpy(array) for name, array in arrays.items()})


class Spilled:
    """The parts on disk, mapped."""

    def __init__(self, work: Path, n_parts: int):
        self._parts: list[dict[str, NDArray[Any]]] = [mapped(part_file(work, number)) for number in range(n_parts)]

    @property
    def counts(self) -> NDArray[np.int64]:
        """`[latents]`: entries of each."""
        return sum((np.diff(part["offsets"]) for part in self._parts), np.zeros((), np.int64))

    @property
    def positions(self) -> NDArray[np.int64]:
        """`[length]`: tokens looked at, by position."""
        return sum((part["positions"] for part in self._parts), np.zeros((), np.int64))

    def sample(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The sampled tokens' latents: offsets `[tok + 1]`, latents `[nnz]`."""
        counts = np.concatenate([np.diff(part["sample_offsets"]) for part in self._parts])
        latents = np.concatenate([part["sample_latents"] for part in self._parts])
        return np.concatenate([[0], counts.cumsum()]), latents

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of latents whose entries are read at once."""
        counts = self.counts
        first = held = 0
        for latent, count in enumerate(counts.tolist()):
            if latent > first and (held + count > _BLOCK_ENTRIES or latent - first == _BLOCK_LATENTS):
                yield first, latent
                first, held = latent, 0
            held += count
        yield first, len(counts)

    def entries(self, first: int, stop: int) -> Entries:
        """Of latents `first` to `stop`."""
        latents, keys, values = [], [], []
        for part in self._parts:
            offsets = part["offsets"][first : stop + 1]
            rows = slice(int(offsets[0]), int(offsets[-1]))
            latents.append(np.repeat(np.arange(stop - first, dtype=np.int64), np.diff(offsets)))
            keys.append(part["key"][rows])
            values.append(part["value"][rows])
        latent = np.concatenate(latents)
        order = np.argsort(latent << 32 | np.concatenate(keys))
        latent = latent[order]
        offsets = np.searchsorted(latent, np.arange(stop - first + 1))
        key, value = np.concatenate(keys)[order].astype(np.int64), np.concatenate(values)[order]
        return Entries(first, offsets, latent, key, value)
