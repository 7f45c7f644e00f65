"""Matching pursuit: the loop over one-sparse steps, and its backward, a token at a time in cache."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from saelab.kernels.jit import ROWS_PER_TASK, call, parallel, serial

_LANES = 64


@serial
def _lane_maxima(row, absolute, lanes):
    """Maxima of the columns l, l + n_lanes, ...; NaN is never one."""
    n_lanes = lanes.shape[0]
    for lane in range(n_lanes):
        lanes[lane] = -np.inf
    whole = row.shape[0] // n_lanes
    for i in range(whole):
        part = row[i * n_lanes : (i + 1) * n_lanes]
        for lane in range(n_lanes):
            value = abs(part[lane]) if absolute else part[lane]
            lanes[lane] = value if value > lanes[lane] else lanes[lane]
    for column in range(whole * n_lanes, row.shape[0]):
        value = abs(row[column]) if absolute else row[column]
        if value > lanes[column - whole * n_lanes]:
            lanes[column - whole * n_lanes] = value


@serial
def _best(row, absolute, lanes):
    """The column of the largest positive correlation (or magnitude); -1 where there is none."""
    n_lanes, lane = lanes.shape[0], 0
    for other in range(1, n_lanes):
        if lanes[other] > lanes[lane]:
            lane = other
    if not lanes[lane] > 0:
        return -1
    for i in range((row.shape[0] - lane + n_lanes - 1) // n_lanes):
        column = i * n_lanes + lane
        if (abs(row[column]) if absolute else row[column]) == lanes[lane]:
            return column
    return -1


@serial
def _among(column, picked):
    found = False
    for i in range(picked.shape[0]):
        found = found or picked[i] == column
    return found


@parallel
def _pursue(correlation, gram, squares, absolute, least, ends_at_repeat, picked, amounts, counts):
    n, n_latents = correlation.shape
    steps = picked.shape[1]
    n_lanes = min(_LANES, n_latents)
    for task in prange((n + ROWS_PER_TASK - 1) // ROWS_PER_TASK):
        lanes = np.empty(n_lanes, correlation.dtype)
        for r in range(task * ROWS_PER_TASK, min(n, (task + 1) * ROWS_PER_TASK)):
            row, energy, taken = correlation[r], squares[r], 0
            for step in range(steps):
                _lane_maxima(row, absolute, lanes)
                column = _best(row, absolute, lanes)
                if column < 0 or not energy > least:
                    break
                amount = row[column]
                repeated = ends_at_repeat and _among(column, picked[r, :step])
                picked[r, step], amounts[r, step] = column, amount
                other = gram[column]
                energy -= amount * amount * (2 - other[column])  # rows may be off norm 1
                taken = step + 1
                if repeated:
                    break
                for j in range(n_latents):
                    row[j] -= amount * other[j]
            counts[r] = taken


def pursue(
    correlation: Tensor,
    gram: Tensor,
    squares: Tensor,
    steps: int,
    *,
    absolute: bool,
    threshold: float,
    ends_at_repeat: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The pursuit of tokens whose correlations `[tok, lat]` with the rows are given (and are overwritten).

    Args:
        gram: `[lat, lat]`, the rows' products with each other.
        squares: `[tok]`, squared norms of the tokens.
        threshold: a pursuit ends where the residual is no longer than that.
        ends_at_repeat: it also ends with the first latent that it picks twice.

    Returns:
        `[tok, steps]` latents (int64) and amounts, 0 behind each pursuit's end, and `[tok]` numbers of steps.
    """
    shape = (correlation.shape[0], steps)
    picked, amounts = torch.zeros(shape, dtype=torch.int64), correlation.new_zeros(shape)
    counts = torch.empty(shape[0], dtype=torch.int64)
    least = threshold * threshold
    call(_pursue, correlation, gram, squares, absolute, least, ends_at_repeat, picked, amounts, counts)
    return picked, amounts, counts


@parallel
def _number(picked, counts, slots, widths):
    for b in prange(picked.shape[0]):
        row, slot, width = picked[b], slots[b], 0
        for i in range(counts[b]):
            same = -1
            for j in range(i):
                if row[j] == row[i]:
                    same = j
            if same >= 0:
                slot[i] = slot[same]
            else:
                slot[i] = width
                width += 1
        widths[b] = width


def number(picked: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """For each step its place `[tok, steps]` among the different latents of its token, and how many those are."""
    slots, widths = torch.zeros_like(picked), torch.empty_like(counts)
    call(_number, picked, counts, slots, widths)
    return slots, widths


@parallel
def _backward(x, rows, picked, amounts, counts, grad, to_x, atoms_grad):
    """Back through the steps of each token. With `l_i = grad_i - <a_i, s_i>` and `s_i = sum of l_j a_j, j > i`, the
    gradient to the atom of step i is `l_i r_i - amount_i s_i`, r_i being the residual before it."""
    n, steps = picked.shape
    d = rows.shape[1]
    for b in prange(n):
        left, after = x[b].copy(), to_x[b]
        after[:] = 0
        for i in range(counts[b]):
            atom, amount = rows[picked[b, i]], amounts[b, i]
            for j in range(d):
                left[j] -= amount * atom[j]
        for back in range(counts[b]):
            i = counts[b] - 1 - back
            atom, amount, out = rows[picked[b, i]], amounts[b, i], atoms_grad[b * steps + i]
            along = grad[b, i]
            for j in range(d):
                along -= atom[j] * after[j]
            for j in range(d):
                left[j] += amount * atom[j]
                out[j] = along * left[j] - amount * after[j]
                after[j] += along * atom[j]


@parallel
def _add_by_latent(order, bounds, atoms_grad, out):
    for f in prange(out.shape[0]):
        row = out[f]
        for j in range(bounds[f], bounds[f + 1]):
            part = atoms_grad[order[j]]
            for i in range(row.shape[0]):
                row[i] += part[i]


def backward(
    x: Tensor, rows: Tensor, picked: Tensor, amounts: Tensor, counts: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to the tokens `[tok, d]` and the rows `[lat, d]`, from those to the amounts `[tok, steps]`."""
    from saelab.kernels.jit.primitives import by_key

    n_tokens, steps = picked.shape
    to_rows, to_x = torch.zeros_like(rows), torch.empty_like(x)
    block = max(1, _BLOCK_ROWS // steps)
    atoms_grad = rows.new_empty(min(block, n_tokens) * steps, rows.shape[1])
    taken = torch.arange(steps) < counts[:, None]
    for start in range(0, n_tokens, block):
        part = slice(start, min(start + block, n_tokens))
        tokens = [value[part] for value in (picked, amounts, counts, grad, to_x)]
        call(_backward, x[part], rows, *tokens, atoms_grad)
        latents = torch.where(taken[part], picked[part], len(rows)).reshape(-1)
        order, bounds = by_key(latents, len(rows) + 1)
        call(_add_by_latent, order, bounds, atoms_grad, to_rows)
    return to_x, to_rows


_BLOCK_ROWS = 8192
"""Gradients to single atoms that are held at a time."""
