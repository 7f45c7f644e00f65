"""Rows in 8 bits, and back."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from saelab.kernels.jit import call, parallel

_LARGEST = 127


@parallel
def _quantise(rows, factors, out, scales, norms):
    n, d = rows.shape
    like = rows.dtype.type  # a Python number would make every operation float64
    zero, half, most = like(0), like(0.5), like(_LARGEST)
    for r in prange(n):
        row, small = rows[r], out[r]
        largest, squares = zero, zero
        for j in range(d):
            value = row[j] * factors[j]
            squares += value * value
            size = abs(value)
            largest = size if size > largest else largest
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


@parallel
def _dequantise(products, left, right, bias, out):
    n, n_columns = products.shape
    for r in prange(n):
        row, target, scale = products[r], out[r], left[r]
        for j in range(n_columns):
            target[j] = left.dtype.type(row[j]) * (scale * right[j]) + bias[j]


def dequantise(products: Tensor, left: Tensor, right: Tensor, bias: Tensor, out: Tensor) -> None:
    """`out = products * left * right + bias`: int32 `[n, c]`, `[n]`, `[c]`, `[c]`; `out` may lie in the same memory."""
    call(_dequantise, products, left, right, bias, out)
