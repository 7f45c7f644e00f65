"""CUDA, sparse codes: Triton kernels, deterministic, no float atomics. CPU tensors in Triton's interpreter alone.

A program sums tiles of `ENTRIES x COLUMNS` products in float32 (float64 for float64) and writes each
element of its output once. Nothing of a batch's size is compiled in, and nothing waits for the device:
ragged rows are counted there, and grids are as large as the capacity can demand.

The transposed scatter takes the entries in order of their latents (`Support.by_latent`), each latent's
in chunks of `CHUNK`. A first pass sums every chunk but a latent's first; a second sums the first chunks
and adds the others' sums in order. So a latent in every row costs more programs, not one long one.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from saelab.kernels.support import Support

CHUNK = 128
"""Entries of one latent that one program of the transposed scatter sums."""
_COLUMNS = 256
"""Columns of a tile at most."""
_TILE = 4096
"""Elements of a tile: 32 accumulators for each of a program's 128 threads."""


@triton.jit
def _rows_of(matrix, stride, rows, used, columns, d):
    """`[ENTRIES, COLUMNS]`: the rows of `matrix`, zeros where an entry is not used or a column not there."""
    places = matrix + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    return tl.load(places, mask=used[:, None] & (columns < d)[None, :], other=0.0)


@triton.jit
def _gather(values, latents, offsets, weight, stride, out, d, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr):
    """Program (token, tile of columns)."""
    dtype = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    stop = tl.load(offsets + token + 1).to(tl.int64)
    total = tl.zeros((ENTRIES, COLUMNS), dtype)
    for start in range(tl.load(offsets + token).to(tl.int64), stop, ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        used = entries < stop
        scales = tl.load(values + entries, mask=used, other=0.0).to(dtype)
        rows = tl.load(latents + entries, mask=used, other=0)
        total += scales[:, None] * _rows_of(weight, stride, rows, used, columns, d).to(dtype)
    tl.store(out + token * d + columns, tl.sum(total, 0).to(out.dtype.element_ty), mask=columns < d)


@triton.jit
def _sampled_dot(
    rows, row_stride, weight, stride, latents, offsets, out, d, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr
):
    """Program (token, part): every so many-th block of the row's entries."""
    dtype = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    token = tl.program_id(0).to(tl.int64)
    first = tl.load(offsets + token).to(tl.int64) + tl.program_id(1) * ENTRIES
    stop = tl.load(offsets + token + 1).to(tl.int64)
    for start in range(first, stop, tl.num_programs(1) * ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        used = entries < stop
        picked = tl.load(latents + entries, mask=used, other=0)
        total = tl.zeros((ENTRIES, COLUMNS), dtype)
        for left in range(0, d, COLUMNS):
            columns = left + tl.arange(0, COLUMNS)
            row = tl.load(rows + token * row_stride + columns, mask=columns < d, other=0.0).to(dtype)
            total += row[None, :] * _rows_of(weight, stride, picked, used, columns, d).to(dtype)
        tl.store(out + entries, tl.sum(total, 1).to(out.dtype.element_ty), mask=used)


@triton.jit
def _chunk(values, order, tokens, rows, stride, start, stop, columns, d, dtype: tl.constexpr, ENTRIES: tl.constexpr):
    """`[COLUMNS]`: value times row, summed over the sorted entries `start:stop`."""
    total = tl.zeros((ENTRIES, columns.shape[0]), dtype)
    for position in range(start, stop, ENTRIES):
        positions = position + tl.arange(0, ENTRIES)
        used = positions < stop
        entries = tl.load(order + positions, mask=used, other=0)
        scales = tl.load(values + entries, mask=used, other=0.0).to(dtype)
        picked = tl.load(tokens + entries, mask=used, other=0)
        total += scales[:, None] * _rows_of(rows, stride, picked, used, columns, d).to(dtype)
    return tl.sum(total, 0)


@triton.jit
def _later_chunks(
    values, latents, order, bounds, tokens, rows, stride, sums, n_latents, d,
    CHUNK: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (window of CHUNK sorted entries, tile of columns): the later chunk that starts in the window.

    There is one at most, for they start CHUNK apart or more; and its latent, having a chunk before it,
    already holds the window's first entry.
    """
    window = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    position = window * CHUNK
    if position < tl.load(bounds + n_latents):
        latent = tl.load(latents + tl.load(order + position)).to(tl.int64)
        begin = tl.load(bounds + latent)
        stop = tl.load(bounds + latent + 1)
        start = begin + tl.cdiv(position - begin, CHUNK) * CHUNK
        if (start > begin) & (start < stop):
            stop = tl.minimum(start + CHUNK, stop)
            total = _chunk(values, order, tokens, rows, stride, start, stop, columns, d, sums.dtype.element_ty, ENTRIES)
            tl.store(sums + window * d + columns, total, mask=columns < d)


@triton.jit
def _scatter(
    values, order, bounds, tokens, rows, stride, sums, out, d,
    CHUNK: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (latent, tile of columns): its first chunk, and the sums of its later ones."""
    latent = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tl.load(bounds + latent)
    stop = tl.load(bounds + latent + 1)
    head = tl.minimum(begin + CHUNK, stop)
    total = _chunk(values, order, tokens, rows, stride, begin, head, columns, d, sums.dtype.element_ty, ENTRIES)
    for start in range(head, stop, CHUNK):
        total += tl.load(sums + start // CHUNK * d + columns, mask=columns < d, other=0.0)
    tl.store(out + latent * d + columns, total.to(out.dtype.element_ty), mask=columns < d)


INTERPRETED = not isinstance(_gather, triton.JITFunction)
"""Whether `TRITON_INTERPRET=1` stood in the environment when triton was imported: then CPU tensors are welcome."""


def gather(values: Tensor, support: Support, weight: Tensor) -> Tensor:
    weight = _rows_in_line(weight)
    d = weight.shape[1]
    out = weight.new_empty(support.n_tokens, d)
    tile = _tile(d)
    args = values.contiguous(), *_pattern(support), weight, weight.stride(0), out, d
    _launch(_gather, (support.n_tokens, triton.cdiv(d, tile["COLUMNS"])), *args, **tile)
    return out


def sampled_dot(grad: Tensor, weight: Tensor, support: Support) -> Tensor:
    grad, weight = _rows_in_line(grad), _rows_in_line(weight)
    d = weight.shape[1]
    capacity = support.latents.numel()
    out = weight.new_zeros(capacity)  # spare capacity is no program's
    tile = _tile(d)
    mean_width = triton.cdiv(capacity, max(support.n_tokens, 1))
    grid = support.n_tokens, triton.cdiv(mean_width, tile["ENTRIES"])
    args = grad, grad.stride(0), weight, weight.stride(0), *_pattern(support), out, d
    _launch(_sampled_dot, grid, *args, **tile)
    return out


def transposed_scatter(values: Tensor, support: Support, grad: Tensor) -> Tensor:
    values, rows = values.contiguous(), _rows_in_line(grad)
    d = rows.shape[1]
    order, bounds = support.by_latent
    out = rows.new_empty(support.n_latents, d)
    windows = triton.cdiv(order.numel(), CHUNK)
    sums = rows.new_empty(windows, d, dtype=torch.float64 if rows.dtype == torch.float64 else torch.float32)
    latents, _ = _pattern(support)
    tile = _tile(d)
    tiles = triton.cdiv(d, tile["COLUMNS"])
    entries = order, bounds, support.capacity_rows, rows, rows.stride(0), sums
    _launch(_later_chunks, (windows, tiles), values, latents, *entries, support.n_latents, d, CHUNK=CHUNK, **tile)
    _launch(_scatter, (support.n_latents, tiles), values, *entries, out, d, CHUNK=CHUNK, **tile)
    return out


def latent_sum(values: Tensor, support: Support) -> Tensor:
    return transposed_scatter(values, support, values.new_ones(support.n_tokens, 1))[:, 0]


def _rows_in_line(matrix: Tensor) -> Tensor:
    """`matrix` with the elements of a row side by side; the rows may lie anywhere."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _pattern(support: Support) -> tuple[Tensor, Tensor]:
    return support.latents.contiguous(), support.offsets.contiguous()


def _tile(d: int) -> dict[str, int]:
    columns = min(triton.next_power_of_2(d), _COLUMNS)
    return {"ENTRIES": min(_TILE // columns, CHUNK), "COLUMNS": columns}


def _launch(kernel: Any, grid: tuple[int, int], *args: Any, **constants: int) -> None:
    """On the first argument's device. Fused multiply-adds by name, since Triton's default is about to change."""
    with torch.cuda.device_of(args[0]):
        kernel[grid](*args, **constants, num_warps=4, enable_fp_fusion=True)
