"""Rows in 8 bits, and back."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from saelab.kernels.jit import call, parallel, serial

_LARGEST = 127
_LANES = 64


@parallel
def _quantise(rows, factors, out, scales, norms):
    n, d = rows.shape
    like = rows.dtype.type  # a Python number would make every operation float64
    zero, half, most = like(0), like(0.5), like(_LARGEST)
    for r in prange(n):
        row, small, lanes = rows[r], out[r], np.empty(_LANES, rows.dtype)
        largest, squares = zero, zero
        lanes[:] = 0
        for part in range((d + _LANES - 1) // _LANES):
            some, others = row[part * _LANES : (part + 1) * _LANES], factors[part * _LANES : (part + 1) * _LANES]
            for lane in range(some.shape[0]):  # a maximum per lane: a single one would not be found in vectors
                value = some[lane] * others[lane]
                squares += value * value
                size = abs(value)
                lanes[lane] = size if size > lanes[lane] else lanes[lane]
        for lane in range(_LANES):
            largest = max(largest, lanes[lane])
        scales[r], norms[r] = largest / most, np.sqrt(squares)
        inverse = most / largest if largest > 0 else zero
        for j in range(d):
            value = row[j] * factors[j] * inverse
            small[j] = np.int8(np.int32(value + half if value > 0 else value - half))


def quantise(rows: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`rows * factors` as int8 with a scale each: `[n, d]`, `[d]` -> int8 `[n, d]`, scales `[n]`, and norms `[n]`."""
    out = torch.empty(rows.shape, dtype=torch.int8)
    scales, norms = rows.new_empty(len(rows)), rows.new_empty(len(rows))
    call(_quantise, rows, factors, out, scales, norms)
    return out, scales, norms


@serial
def scale_row(products, scale, right, bias, out):
    """`out = products * scale * right + bias`, one row."""
    for j in range(products.shape[0]):
        out[j] = out.dtype.type(products[j]) * (scale * right[j]) + bias[j]


@parallel
def _dequantise(products, left, right, bias, out):
    for r in prange(products.shape[0]):
        scale_row(products[r], left[r], right, bias, out[r])


def dequantise(products: Tensor, left: Tensor, right: Tensor, bias: Tensor, out: Tensor) -> None:
    """`out = products * left * right + bias`: int32 `[n, c]`, `[n]`, `[c]`, `[c]`; `out` may lie in the same memory."""
    call(_dequantise, products, left, right, bias, out)
