"""Numbers of each latent over all tokens that were looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelab.features.bundle import HISTOGRAM_BINS, POSITION_BINS
from saelab.features.examples import descending
from saelab.features.spill import Entries


def statistics(entries: Entries, tokens: NDArray[np.int32], listed: int) -> dict[str, NDArray[Any]]:
    """Columns of the table, one row for each latent of a block; see `saelab.features.bundle`.

    Args:
        tokens: `[contexts, length]` ids; listed: how many tokens a latent fires on are named.
    """
    n = entries.n_latents
    latent, value, length = entries.latent, entries.value, tokens.shape[1]
    count = np.diff(entries.offsets)
    low, high = np.zeros(n, np.float32), np.zeros(n, np.float32)
    live = np.flatnonzero(count)
    if len(live):
        low[live] = np.minimum(np.minimum.reduceat(value, entries.offsets[live]), 0)
        high[live] = np.maximum(np.maximum.reduceat(value, entries.offsets[live]), 0)
    total = np.bincount(latent, value.astype(np.float64), n)
    stretch = entries.key % length * POSITION_BINS // length
    ids, share = _fired_on(entries, tokens, listed)
    return {
        "count": count,
        "negative": np.bincount(latent[value < 0], minlength=n),
        "mean": np.divide(total, count, out=np.zeros(n), where=count > 0).astype(np.float32),
        "min": low,
        "max": high,
        "histogram": _table(latent, histogram_bin(value, low[latent], high[latent]), n, HISTOGRAM_BINS),
        "positions": _table(latent, stretch, n, POSITION_BINS),
        "fire_tokens": ids,
        "fire_share": share,
    }


def histogram_bin(value: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.int64]:
    """Which of the equal bins from `low` to `high` each value lies in, in float64; `high` lies in the last."""
    share = (value.astype(np.float64) - low) / (high.astype(np.float64) - low)
    return np.minimum((share * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)


def _table(row: NDArray[Any], column: NDArray[Any], rows: int, columns: int) -> NDArray[np.int32]:
    counts = np.bincount(row * columns + column, minlength=rows * columns)
    return counts.reshape(rows, columns).astype(np.int32)


def _fired_on(entries: Entries, tokens: NDArray[np.int32], listed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """`[latents, listed]` token ids and their share of the summed absolute value; ties to the lower id."""
    n = entries.n_latents
    ids, shares = np.full((n, listed), -1, np.int32), np.zeros((n, listed), np.float32)
    if not len(entries.key):
        return ids, shares
    pair = entries.latent << 32 | tokens.reshape(-1)[entries.key]
    order = np.argsort(pair)
    begins = np.flatnonzero(np.diff(pair[order], prepend=-1))
    weight = np.add.reduceat(np.abs(entries.value[order]).astype(np.float64), begins)
    latent, token = pair[order[begins]] >> 32, pair[order[begins]] & 0xFFFFFFFF
    ranked = descending(latent, weight)
    latent, token, weight = latent[ranked], token[ranked], weight[ranked]
    starts = np.searchsorted(latent, np.arange(n))
    place = np.arange(len(latent)) - starts[latent]
    kept = place < listed
    total = np.bincount(latent, weight, n)
    ids[latent[kept], place[kept]] = token[kept]
    shares[latent[kept], place[kept]] = (weight / total[latent])[kept]
    return ids, shares
