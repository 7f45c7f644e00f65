"""Which latents are active on the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelab.features.examples import descending

_PAIRS = 20_000_000
"""Pairs of latents counted at once."""


def coactive(
    offsets: NDArray[np.int64],
    latents: NDArray[np.int32],
    n_latents: int,
    listed: int,
    report: Callable[[int, int], None],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of each latent those that share most tokens with it: tokens in common over the geometric mean of both counts
    (Ochiai's coefficient, which dense latents do not win by being everywhere). Ties to the lower number.

    Args:
        offsets, latents: active latents by token, `[tok + 1]` and `[nnz]`.

    Returns:
        `[latents, listed]` numbers (int32, -1 where there are fewer) and overlaps in 0 to 1.
    """
    from scipy.sparse import csr_array

    ones = np.ones(len(latents), np.float32)
    by_token = csr_array((ones, latents, offsets), shape=(len(offsets) - 1, n_latents))
    by_latent = by_token.T.tocsr()
    count = np.diff(by_latent.indptr)
    numbers, overlaps = np.full((n_latents, listed), -1, np.int32), np.zeros((n_latents, listed), np.float32)
    for start, stop in _blocks(by_token, by_latent):
        product = by_latent[start:stop] @ by_token
        product.sort_indices()
        common = product.tocoo()
        row, other = common.coords[0] + start, common.coords[1]
        kept = row != other
        row, other, together = row[kept], other[kept], common.data[kept]
        overlap = (together / np.sqrt(count[row].astype(np.float64) * count[other])).astype(np.float32)
        best = descending(row - start, overlap)
        row, other, overlap = row[best], other[best], overlap[best]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        first = place < listed
        numbers[row[first], place[first]] = other[first]
        overlaps[row[first], place[first]] = overlap[first]
        report(stop, n_latents)
    return numbers, overlaps


def _blocks(by_token: Any, by_latent: Any) -> list[tuple[int, int]]:
    """Ranges of latents with a bounded number of pairs each."""
    l0 = np.diff(by_token.indptr).astype(np.float64)
    pairs = by_latent @ l0
    ends = np.flatnonzero(np.diff(pairs.cumsum() // _PAIRS, append=np.inf)) + 1
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
