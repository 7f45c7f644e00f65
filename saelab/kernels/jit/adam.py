"""Adam on a matrix whose rows are latents, with all that belongs to it, in two passes over memory.

The first pass only reads: it gives the norm of the gradient, to clip by. The second updates moments and rows,
and brings rows back to norm 1. Torch's own operations for the same take eight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import prange
from torch import Tensor

from saelab.kernels.jit import call, parallel

_VANISHING = 1e-30
"""Moments below this are set to 0. They have no effect (eps is 1e-8), and those of a dead latent would become
denormal numbers, on which a CPU is many times slower."""


@parallel
def _row_norms(rows, grad, unit, along, squares):
    n, d = grad.shape
    zero = grad.dtype.type(0)
    for r in prange(n):
        row, slope = rows[r], grad[r]
        dot, length, total = zero, zero, zero
        for j in range(d):
            total += slope[j] * slope[j]
        if unit:
            for j in range(d):
                dot += row[j] * slope[j]
                length += row[j] * row[j]
        left = total - dot * dot * (grad.dtype.type(2) - length)
        along[r] = dot
        squares[r] = zero if left < zero else left  # not `max`, which would hide a NaN


@parallel
def _update(rows, grad, along, first, second, scale, rate, beta1, beta2, eps, root, unit):
    n, d = rows.shape
    like = rows.dtype.type  # a Python float would make every operation float64
    scale, rate, eps, root = like(scale), like(rate), like(eps), like(root)
    beta1, beta2, tiny, zero, one = like(beta1), like(beta2), like(_VANISHING), like(0), like(1)
    rest1, rest2 = one - beta1, one - beta2
    for r in prange(n):
        row, slope, mean, square, dot = rows[r], grad[r], first[r], second[r], along[r]
        total = zero
        for j in range(d):
            g = (slope[j] - dot * row[j]) * scale
            m = beta1 * mean[j] + rest1 * g
            v = beta2 * square[j] + rest2 * g * g
            m = zero if abs(m) < tiny else m
            v = zero if v < tiny else v
            mean[j], square[j] = m, v
            value = row[j] - rate * m / (np.sqrt(v) * root + eps)
            row[j] = value
            total += value * value
        if unit:
            inverse = one / np.sqrt(total)
            for j in range(d):
                row[j] *= inverse


@dataclass(frozen=True, eq=False)
class Parameter:
    """Attributes:
    rows, grad, mean, square: `[n, d]` each: values, gradient, Adam's moments.
    unit: rows have norm 1 and keep it; the part of the gradient along them is left out.
    along, squares: `[n]`: the gradient along each row, and the squared norm of what remains.
    """

    rows: Tensor
    grad: Tensor
    mean: Tensor
    square: Tensor
    unit: bool
    along: Tensor
    squares: Tensor


def look(rows: Tensor, grad: Tensor, mean: Tensor, square: Tensor, *, unit: bool) -> Parameter:
    """The first pass. A vector is taken as one row."""
    rows, grad, mean, square = (_matrix(value) for value in (rows, grad, mean, square))
    along, squares = grad.new_empty(len(rows)), grad.new_empty(len(rows))
    call(_row_norms, rows, grad, unit, along, squares)
    return Parameter(rows, grad, mean, square, unit, along, squares)


def _matrix(value: Tensor) -> Tensor:
    return value.view(-1, value.shape[-1]) if value.ndim else value.view(1, 1)


def update(p: Parameter, *, lr: float, betas: tuple[float, float], eps: float, step: int, scale: float) -> None:
    """The second pass, with the gradient times `scale`; `step` counts from 1."""
    rate, root = lr / (1 - betas[0] ** step), 1 / math.sqrt(1 - betas[1] ** step)
    call(_update, p.rows, p.grad, p.along, p.mean, p.square, scale, rate, *betas, eps, root, p.unit)


def norm(parameters: list[Parameter]) -> Tensor:
    """Of the gradient of all of them, `[]`."""
    return torch.stack([p.squares.sum() for p in parameters]).sum().sqrt()
