"""Which tokens are shown of a latent, and their contexts' activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelab.features.spec import IndexSpec
from saelab.features.spill import Entries


@dataclass(frozen=True)
class Chosen:
    """Examples, each by the entry it is about.

    Attributes:
        entry: `[examples]` index into the entries; bin: `[examples]`, see `saelab.features.bundle`.
    """

    entry: NDArray[np.int64]
    bin: NDArray[np.int64]


def choose(entries: Entries, context_length: int, spec: IndexSpec) -> Chosen:
    """Of each latent the contexts in which it is strongest, and a draw from each interval of activation; the same
    below 0. Ties go to the earlier context, and in a context to the earlier token."""
    above = _tail(entries, entries.value, context_length, spec)
    below = _tail(entries, -entries.value, context_length, spec)
    entry = np.concatenate([above.entry, below.entry])
    bins = np.concatenate([above.bin, -1 - below.bin])
    # Within a latent: 0, 1, 2, ..., then -1, -2, ...; the order within a bin is kept.
    order = np.lexsort((np.abs(bins), bins < 0, entries.latent[entry]))
    return Chosen(entry[order], bins[order])


def _tail(entries: Entries, value: NDArray[np.float32], context_length: int, spec: IndexSpec) -> Chosen:
    """Among entries whose `value` is above 0."""
    rows = np.flatnonzero(value > 0)
    if not len(rows):
        return Chosen(rows, rows)
    latent, value, context = entries.latent[rows], value[rows], entries.key[rows] // context_length
    strongest = _strongest(latent, context, value, spec.top)
    drawn, interval = _drawn(latent + entries.first, context, value, spec)
    bins = np.concatenate([np.zeros(len(strongest), np.int64), interval])
    return Chosen(rows[np.concatenate([strongest, drawn])], bins)


def _strongest(latent: NDArray[Any], context: NDArray[Any], value: NDArray[Any], top: int) -> NDArray[np.int64]:
    """The peaks of each latent's `top` contexts, the highest first."""
    begins = np.flatnonzero(_begins(latent, context))
    lengths = np.diff(begins, append=len(value))
    highest = np.flatnonzero(value == np.repeat(np.maximum.reduceat(value, begins), lengths))
    run = np.repeat(np.arange(len(begins)), lengths)[highest]
    peaks = highest[_begins(run)]
    ranked = peaks[descending(latent[peaks], value[peaks])]
    return ranked[_rank(latent[ranked]) < top]


def _drawn(
    latent: NDArray[Any], context: NDArray[Any], value: NDArray[Any], spec: IndexSpec
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of up to `per_interval` contexts from each interval, and the number of their interval.

    Contexts are drawn by a hash of latent, context and seed, so that a draw depends on nothing else.
    """
    starts = np.flatnonzero(_begins(latent))
    highest = np.repeat(np.maximum.reduceat(value, starts), np.diff(starts, append=len(value)))
    share = (highest.astype(np.float64) - value) / highest
    interval = np.minimum((share * spec.intervals).astype(np.int64), spec.intervals - 1)
    group = latent * spec.intervals + interval
    hashed = _hash(latent, context, spec.seed) >> np.uint64(24)
    order = np.argsort((group - group[0]) << 40 | hashed.astype(np.int64), kind="stable")  # in a context by position
    firsts = order[_begins(group[order], context[order])]
    kept = firsts[_rank(group[firsts]) < spec.per_interval]
    return kept, 1 + interval[kept]


def descending(group: NDArray[Any], value: NDArray[Any]) -> NDArray[np.int64]:
    """An order by group, and in a group from the highest value (above 0, as float32) down; ties stay as they are."""
    bits = value.astype(np.float32).view(np.int32).astype(np.int64)  # positive floats are ordered as their bits are
    return np.argsort(group << 31 | (0x7FFFFFFF - bits), kind="stable")


def _begins(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a run of equal rows begins."""
    changes = np.zeros(len(columns[0]), bool)
    changes[:1] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return changes


def _rank(group: NDArray[Any]) -> NDArray[np.int64]:
    """Place of each row within its run of equal values."""
    begins = np.flatnonzero(_begins(group))
    return np.arange(len(group)) - np.repeat(begins, np.diff(begins, append=len(group)))


def _hash(latent: NDArray[Any], context: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 of the three."""
    with np.errstate(over="ignore"):
        z = (latent.astype(np.uint64) << np.uint64(32)) + context.astype(np.uint64)
        z += np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def arrays(entries: Entries, chosen: Chosen, context_length: int) -> dict[str, NDArray[Any]]:
    """A shard's arrays, see `saelab.features.bundle`."""
    context = entries.key // context_length
    begins = np.flatnonzero(_begins(entries.latent, context))
    run = np.searchsorted(begins, chosen.entry, side="right") - 1
    start, stop = begins[run], np.append(begins, len(entries.key))[run + 1]
    lengths = stop - start
    offsets = np.concatenate([[0], lengths.cumsum()])
    entry = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
    scale = _scale(entries)
    share = entries.value[entry] / scale[entries.latent[entry]]
    return {
        "example_offsets": np.searchsorted(entries.latent[chosen.entry], np.arange(entries.n_latents + 1)).astype(
            np.int32
        ),
        "context": context[chosen.entry].astype(np.int32),
        "position": (entries.key[chosen.entry] % context_length).astype(np.int32),
        "bin": chosen.bin.astype(np.int8),
        "entry_offsets": offsets.astype(np.int32),
        "entry_position": (entries.key[entry] % context_length).astype(np.min_scalar_type(-context_length)),
        "entry_value": share.astype(np.float16),
    }


def _scale(entries: Entries) -> NDArray[np.float32]:
    """`[latents]`: each one's largest absolute value (1 where there is none)."""
    scale = np.ones(entries.n_latents, np.float32)
    starts = np.flatnonzero(_begins(entries.latent)) if len(entries.latent) else np.zeros(0, np.int64)
    if len(starts):
        scale[entries.latent[starts]] = np.maximum.reduceat(np.abs(entries.value), starts)
    return scale
