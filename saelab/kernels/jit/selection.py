"""Which entries of a tile of scores are among the largest, or above a threshold."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import math

import numpy as np
import torch
from numba import prange
from torch import Tensor

from saelab.kernels.jit import ROWS_PER_TASK, call, parallel, serial
from saelab.kernels.jit.primitives import by_key
from saelab.kernels.jit.quantised import scale_row
from saelab.kernels.products import Scaled, Tiles
from saelab.kernels.support import Support

_CAPACITY = 4
"""Candidates a row may gather, in budgets, before it is cut back to its budget."""
_BLOCK = 64
"""Columns looked at together: most blocks hold nothing above a threshold."""


@serial
def largest_first(values, columns, n, k):
    """Partition the first n values (and their columns with them): the k largest come first."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                columns[i], columns[j] = columns[j], columns[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break


@serial
def least(values, n):
    """The smallest of the first n values."""
    out = values[0]
    for i in range(1, n):
        out = min(out, values[i])
    return out


@serial
def column_maxima(row, n_groups, out):
    """The maxima of strided groups: group g holds the columns g, g + n_groups, ... of `row`."""
    for g in range(n_groups):
        out[g] = -np.inf
    for i in range(row.shape[0] // n_groups):
        part = row[i * n_groups : (i + 1) * n_groups]
        for g in range(n_groups):
            out[g] = part[g] if part[g] > out[g] else out[g]  # not `max`, which would keep a NaN


@serial
def groups_for(n_columns, k):
    """How many groups bound the k-th largest well, at four columns a group or more."""
    n_groups = 64
    while n_groups < 4 * k:
        n_groups *= 2
    while n_groups > 1 and n_groups * 4 > n_columns:
        n_groups //= 2
    return n_groups


@serial
def _keep(value, column, values, columns, held, limit, k):
    """Add an entry above the limit; where there is no room, cut back to the k largest and raise the limit first."""
    if held == values.shape[0]:
        largest_first(values, columns, held, k)
        limit, held = least(values, k), k
    if value > limit:
        values[held], columns[held] = value, column
        held += 1
    return held, limit


@parallel
def _push(tile, products, left, right, bias, start, k, values, columns, count, floor):
    """Take a tile's entries above each row's floor; where a row overflows, keep its k largest and raise the floor.

    The k-th largest of the maxima of disjoint groups is a lower bound of the k-th largest entry: it spares
    most of the pushing where a row starts. Where the tile comes as `products`, a row is scaled when its turn comes.
    """
    scaled = products.shape[0] > 0
    n, n_columns = products.shape if scaled else tile.shape
    n_groups = groups_for(n_columns, k)
    whole = n_columns // n_groups * n_groups
    for task in prange((n + ROWS_PER_TASK - 1) // ROWS_PER_TASK):
        maxima, sorted_maxima = np.empty(n_groups, tile.dtype), np.empty(n_groups, tile.dtype)
        unused, floats = np.empty(n_groups, np.int32), np.empty(n_columns, tile.dtype)
        for r in range(task * ROWS_PER_TASK, min(n, (task + 1) * ROWS_PER_TASK)):
            row, kept, where = floats, values[r], columns[r]
            if scaled:
                scale_row(products[r], left[r], right, bias, floats)
            else:
                row = tile[r]
            held, limit = count[r], floor[r]
            column_maxima(row, n_groups, maxima)
            if held < k <= n_groups:
                sorted_maxima[:] = maxima
                largest_first(sorted_maxima, unused, n_groups, k)
                limit = max(limit, np.nextafter(least(sorted_maxima, k), -maxima.dtype.type(np.inf)))
            for g in range(n_groups):
                if maxima[g] > limit:
                    for i in range(whole // n_groups):
                        column = i * n_groups + g
                        if row[column] > limit:
                            held, limit = _keep(row[column], start + column, kept, where, held, limit, k)
            for column in range(whole, n_columns):
                if row[column] > limit:
                    held, limit = _keep(row[column], start + column, kept, where, held, limit, k)
            count[r], floor[r] = held, limit


@parallel
def _settle(k, values, columns, count):
    """Cut each row back to its k largest; a row that holds fewer (NaN, infinite scores) is filled up with its
    lowest other columns."""
    for r in prange(values.shape[0]):
        held, where = count[r], columns[r]
        if held > k:
            largest_first(values[r], where, held, k)
        candidate = 0
        while held < k:
            taken = False
            for i in range(held):
                taken |= where[i] == candidate
            if not taken:
                where[held] = candidate
                held += 1
            candidate += 1


class TopRows:
    """The k largest of each row, as tiles of columns come in.

    Args:
        n_rows, k: of the result.
        like: the scores to come.
    """

    def __init__(self, n_rows: int, k: int, like: Tiles):
        capacity = max(_CAPACITY * k, k + _BLOCK)
        self.k = k
        self.values = torch.empty(n_rows, capacity, dtype=like.dtype)
        self.columns = torch.empty(n_rows, capacity, dtype=torch.int32)
        self.count = torch.zeros(n_rows, dtype=torch.int32)
        self.floor = torch.full((n_rows,), -math.inf, dtype=like.dtype)

    def push(self, tile: Tensor, rows: slice, start: int) -> None:
        """A tile `[rows, some columns]` whose first column is `start`."""
        none = tile.new_empty(0)
        self._push(rows, start, tile, torch.empty(0, 0, dtype=torch.int32), none, none, none)

    def push_scaled(self, tile: Scaled, rows: slice, start: int) -> None:
        """The same with scores that are not scaled yet."""
        nothing = tile.left.new_empty(0, 0)
        self._push(rows, start, nothing, tile.products, tile.left, tile.right, tile.bias)

    def _push(self, rows: slice, start: int, *tile: Tensor) -> None:
        call(_push, *tile, start, self.k, self.values[rows], self.columns[rows], self.count[rows], self.floor[rows])

    def finish(self) -> Tensor:
        """`[n_rows, k]` int32 columns, in no order."""
        call(_settle, self.k, self.values, self.columns, self.count)
        return self.columns[:, : self.k]


@parallel
def _best_in_rows(scores, k, out):
    n, width = scores.shape
    for task in prange((n + ROWS_PER_TASK - 1) // ROWS_PER_TASK):
        values, columns = np.empty(width, scores.dtype), np.empty(width, np.int64)
        for r in range(task * ROWS_PER_TASK, min(n, (task + 1) * ROWS_PER_TASK)):
            for j in range(width):
                score = scores[r, j]
                values[j] = score if score == score else -np.inf
                columns[j] = j
            largest_first(values, columns, width, k)
            out[r, :] = columns[:k]


def best_in_rows(scores: Tensor, k: int) -> Tensor:
    """`[n, k]` int64: where the k largest of each row of `[n, few]` are, in no order."""
    out = torch.empty(scores.shape[0], k, dtype=torch.int64)
    call(_best_in_rows, scores, k, out)
    return out


@serial
def _count(row, threshold, lower):
    """How many entries of a row are above their limits; counted in floats, whose sums run in vector lanes."""
    one, held = row.dtype.type(1), row.dtype.type(0)
    for j in range(row.shape[0]):
        held += one if row[j] > threshold[j] - lower else one - one
    return int(held)


@parallel
def _count_above(tile, threshold, slack, counts):
    for r in prange(tile.shape[0]):
        counts[r] = _count(tile[r], threshold, slack[r])


@parallel
def _take_above(tile, threshold, slack, first, values, columns):
    n, n_columns = tile.shape
    for r in prange(n):
        row, lower, place = tile[r], slack[r], first[r]
        for block in range((n_columns + _BLOCK - 1) // _BLOCK):
            begin = block * _BLOCK
            part, limits = row[begin : begin + _BLOCK], threshold[begin : begin + _BLOCK]
            if _count(part, limits, lower):
                for j in range(part.shape[0]):
                    if part[j] > limits[j] - lower:
                        values[place], columns[place] = part[j], begin + j
                        place += 1


def above(tile: Tensor, threshold: Tensor, slack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of `[n, c]` above `threshold` `[c]` less `slack` `[n]`.

    Returns:
        How many each row holds `[n]` int32, and, row after row, their values and (int32) columns.
    """
    counts = torch.empty(tile.shape[0], dtype=torch.int32)
    call(_count_above, tile, threshold, slack, counts)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    values, columns = tile.new_empty(total), torch.empty(total, dtype=torch.int32)
    call(_take_above, tile, threshold, slack, ends - counts, values, columns)
    return counts, values, columns


@parallel
def _copy_runs(counts, source, target, values, columns, add, out_values, out_columns):
    for r in prange(counts.shape[0]):
        for j in range(counts[r]):
            out_values[target[r] + j] = values[source[r] + j]
            out_columns[target[r] + j] = columns[source[r] + j] + add


def copy_runs(
    counts: Tensor, target: Tensor, values: Tensor, columns: Tensor, add: int, out_values: Tensor, out_columns: Tensor
) -> None:
    """Copy runs of `counts` `[n]` entries, which lie one after the other, to where `target` `[n]` says; `add` to
    the columns."""
    source = counts.cumsum(0) - counts
    call(_copy_runs, counts, source, target, values, columns, add, out_values, out_columns)


@parallel
def _best_of_rows(tile, quotas, floor, counts, columns):
    n, n_columns = tile.shape
    for task in prange((n + ROWS_PER_TASK - 1) // ROWS_PER_TASK):
        maxima, values = np.empty(n_columns, tile.dtype), np.empty(n_columns, tile.dtype)
        where, unused = np.empty(n_columns, np.int32), np.empty(n_columns, np.int32)
        for r in range(task * ROWS_PER_TASK, min(n, (task + 1) * ROWS_PER_TASK)):
            row, quota, limit = tile[r], min(quotas[r], n_columns), floor[r]
            counts[r] = 0
            if quota == 0:
                continue
            n_groups = groups_for(n_columns, quota)
            whole = n_columns // n_groups * n_groups
            column_maxima(row, n_groups, maxima)
            for column in range(whole, n_columns):
                if row[column] > maxima[column - whole]:
                    maxima[column - whole] = row[column]
            bounds = values[:n_groups]
            bounds[:] = maxima[:n_groups]
            if quota <= n_groups:
                largest_first(bounds, unused, n_groups, quota)
                limit = max(limit, np.nextafter(least(bounds, quota), -tile.dtype.type(np.inf)))
            held = 0
            for g in range(n_groups):
                if maxima[g] > limit:
                    for i in range((n_columns - g + n_groups - 1) // n_groups):
                        column = i * n_groups + g
                        if row[column] > limit:
                            values[held], where[held] = row[column], column
                            held += 1
            if held > quota:
                largest_first(values, where, held, quota)
                held = quota
            counts[r] = held
            columns[r, :held] = where[:held]


def best_of_rows(tile: Tensor, quotas: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """The `quotas` `[n]` largest entries of each row of `[n, c]` that are above `floor` `[n]`.

    Returns:
        How many each row holds `[n]` int32, and, row after row, their (int32) columns.
    """
    most = max(1, min(int(quotas.max()), tile.shape[1])) if len(quotas) else 1
    counts = torch.empty(tile.shape[0], dtype=torch.int32)
    columns = torch.empty(tile.shape[0], most, dtype=torch.int32)
    call(_best_of_rows, tile, quotas, floor, counts, columns)
    return counts, columns[torch.arange(most) < counts[:, None]]


@serial
def _best_of_groups(values, order, bounds, quotas, keep):
    widest = 0
    for f in range(quotas.shape[0]):
        widest = max(widest, bounds[f + 1] - bounds[f])
    held, entries = np.empty(widest, values.dtype), np.empty(widest, np.int64)
    for f in range(quotas.shape[0]):
        n = 0
        for i in range(bounds[f], bounds[f + 1]):
            entry = order[i]
            if values[entry] > 0:
                held[n], entries[n] = values[entry], entry
                n += 1
        quota = min(n, quotas[f])
        if quota > 0:
            largest_first(held, entries, n, quota)
            for i in range(quota):
                keep[entries[i]] = True


def best_of_latents(values: Tensor, support: Support, quotas: Tensor) -> Tensor:
    """`[nnz]` bool: the `quotas` `[lat]` largest positive entries of each latent."""
    keep = torch.zeros(support.nnz, dtype=torch.bool)
    call(_best_of_groups, values[: support.nnz], *support.by_latent, quotas, keep)
    return keep


__all__ = [
    "TopRows",
    "above",
    "best_in_rows",
    "best_of_latents",
    "best_of_rows",
    "by_key",
    "copy_runs",
]
