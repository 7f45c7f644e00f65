"""Scores of every row with every column, `x weight^T + bias`, a tile at a time: the whole matrix is never held.

A tile lies in memory that the next one takes over. Screening computes it in fewer bits: bfloat16 where there are
matrix tiles for it and on GPUs, int8 on CPUs that multiply it natively, four times faster than float32.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

TILE_ENTRIES = 2**22
TILE_COLUMNS = 8192
"""A tile has at most so many entries and columns: 16 MB in float32, and rows long enough for a good first threshold."""
_GRAM_ROWS = 512
_SIGMAS = 5.0
"""Screening errors are sums of many small ones: beyond five standard deviations lies one in two million."""
_BFLOAT16_SLACK = 2.0**-6
"""Of the largest score of a row: four bfloat16 roundings."""


class _Scratch(threading.local):
    """Memory for large blocks, one per purpose and thread, used again and again: fresh pages for a block this large
    cost a third of the matrix product that fills it."""

    def __init__(self) -> None:
        self.blocks: dict[str, Tensor] = {}

    def take(self, purpose: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        n = shape[0] * shape[1]
        block = self.blocks.get(purpose)
        if block is None or block.numel() < n or block.dtype != dtype or block.device != device:
            with torch.inference_mode(False):  # the block outlives the mode that it is first asked for in
                block = self.blocks[purpose] = torch.empty(n, dtype=dtype, device=device)
        return block[:n].view(shape)


_SCRATCH = _Scratch()


def scratch(purpose: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A block whose content lasts until the next call for the same purpose."""
    return _SCRATCH.take(purpose, shape, dtype, device)


@dataclass(frozen=True, eq=False)
class Scaled:
    """Scores `products * left * right + bias`: int32 `[n, c]`, `[n]`, `[c]`, `[c]`."""

    products: Tensor
    left: Tensor
    right: Tensor
    bias: Tensor


class Tiles(ABC):
    """A `[rows, columns]` matrix of scores that comes in tiles.

    Attributes:
        shape: of the whole; dtype, device: of tiles.
        exact: whether tiles are in full precision.
        label: what they are computed in.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    exact: ClassVar[bool] = True
    label: ClassVar[str] = "full precision"

    @abstractmethod
    def tile(self, rows: slice, columns: slice) -> Tensor:
        """A part of the matrix, valid until the next call; it may be changed in place."""

    @abstractmethod
    def transposed(self, rows: slice) -> Tensor:
        """The columns `rows` of the matrix as rows `[few, all rows]`, valid until the next call."""

    def integers(self, rows: slice, columns: slice) -> Scaled | None:
        """The same part as `tile`, where it is made from integers: kernels may scale them as they go."""
        return None

    def slack(self, tile: Tensor, rows: slice) -> Tensor:
        """`[rows]`: by how much the scores of the latest tile may be too low."""
        return tile.new_zeros(len(tile))

    def empty(self, n: int) -> Tensor:
        """`[n]`, of the scores' dtype, where they are."""
        return torch.empty(n, dtype=self.dtype, device=self.device)

    def column_parts(self) -> Iterator[slice]:
        """The columns of the tiles."""
        return parts(self.shape[1], TILE_COLUMNS)

    def row_parts(self, columns: slice, rows: slice | None = None) -> Iterator[slice]:
        """The rows of the tiles that share `columns`, of all rows or some."""
        rows = rows or slice(0, self.shape[0])
        size = max(1, TILE_ENTRIES // max(columns.stop - columns.start, 1))
        for part in parts(rows.stop - rows.start, size):
            yield slice(rows.start + part.start, rows.start + part.stop)

    def walk(self, rows: slice | None = None) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of all tiles; those that share columns follow each other."""
        for columns in self.column_parts():
            for part in self.row_parts(columns, rows):
                yield part, columns


def parts(n: int, size: int) -> Iterator[slice]:
    """`range(n)` in slices of at most `size`."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def gram(rows: Tensor) -> Tensor:
    """`rows rows^T`: `[n, d]` -> `[n, n]`, valid until the next call. Half of it is multiplied, the rest mirrored."""
    out = scratch("gram", (len(rows), len(rows)), rows.dtype, rows.device)
    for part in parts(len(rows), _GRAM_ROWS):
        torch.mm(rows[part], rows[: part.stop].T, out=out[part, : part.stop])
        out[: part.start, part] = out[part, : part.start].T
    return out


@dataclass
class Held(Tiles):
    """A matrix that is there already."""

    scores: Tensor

    def __post_init__(self) -> None:
        self.shape = (self.scores.shape[0], self.scores.shape[1])
        self.dtype, self.device = self.scores.dtype, self.scores.device

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return self.scores[rows, columns].clone(memory_format=torch.contiguous_format)

    def transposed(self, rows: slice) -> Tensor:
        return self.scores[:, rows].T.contiguous()


@dataclass
class Affine(Tiles):
    """`x weight^T + bias`: `[tok, d]`, `[lat, d]`, `[lat]`; `memory` names the block that tiles lie in."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    memory: str = "pre"

    def __post_init__(self) -> None:
        self.shape = (self.x.shape[0], self.weight.shape[0])
        self.dtype, self.device = self.x.dtype, self.x.device

    def tile(self, rows: slice, columns: slice) -> Tensor:
        x, weight = self.x[rows], self.weight[columns]
        out = scratch(self.memory, (len(x), len(weight)), x.dtype, x.device)
        return torch.addmm(self.bias[columns], x, weight.T, out=out)

    def transposed(self, rows: slice) -> Tensor:
        weight = self.weight[rows]
        out = scratch(self.memory, (len(weight), len(self.x)), self.x.dtype, self.x.device)
        return torch.addmm(self.bias[rows, None], weight, self.x.T, out=out)


class InBFloat16(Affine):
    """The same in bfloat16, given in the dtype of `x`."""

    exact, label = False, "bfloat16"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.low_x = self.x.to(torch.bfloat16)
        self.latents: slice | None = None

    def _weight(self, latents: slice) -> Tensor:
        """Rows of the weight in bfloat16; kept for the next tile with the same ones."""
        if latents != self.latents:
            self.latents, self.low_weight = latents, self.weight[latents].to(torch.bfloat16)
        return self.low_weight

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return self._product(self.low_x[rows], self._weight(columns)).add_(self.bias[columns])

    def transposed(self, rows: slice) -> Tensor:
        return self._product(self._weight(rows), self.low_x).add_(self.bias[rows, None])

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        shape = (len(left), len(right))
        low = scratch(f"{self.memory} in bfloat16", shape, torch.bfloat16, self.device)
        torch.mm(left, right.T, out=low)
        return scratch(self.memory, shape, self.dtype, self.device).copy_(low)

    def slack(self, tile: Tensor, rows: slice) -> Tensor:
        return _BFLOAT16_SLACK * tile.abs().amax(1)


class InInt8(Affine):
    """The same in int8, with a scale for each row and each latent, given in the dtype of `x`.

    A few large dimensions of `x` would take all eight bits, so half of the spread between dimensions is
    moved from `x` into the weight first.
    """

    exact, label = False, "int8"

    def __post_init__(self) -> None:
        from saelab.kernels.jit import quantised

        super().__post_init__()
        self.kernels = quantised
        spread = self.x.square().mean(0).pow(0.25)
        self.factors = torch.where(spread > 0, spread, 1.0)
        self.small, self.scales, self.norms = quantised.quantise(self.x.contiguous(), 1 / self.factors)
        self.latents: slice | None = None

    def _weight(self, latents: slice) -> tuple[Tensor, Tensor]:
        """Rows of the weight in int8, and their scales; kept for the next tile with the same ones."""
        if latents != self.latents:
            self.latents = latents
            found = self.kernels.quantise(self.weight[latents].contiguous(), self.factors)
            self.small_weight, self.weight_scales, self.weight_norms = found
        return self.small_weight, self.weight_scales

    def integers(self, rows: slice, columns: slice) -> Scaled:
        weight, scales = self._weight(columns)
        return self._product(self.small[rows], weight, self.scales[rows], scales, self.bias[columns])

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return self._floats(self.integers(rows, columns))

    def transposed(self, rows: slice) -> Tensor:
        weight, scales = self._weight(rows)
        nothing = self.scales.new_zeros(len(self.scales))
        scores = self._floats(self._product(weight, self.small, scales, self.scales, nothing))
        return scores.add_(self.bias[rows, None])

    def _product(self, left: Tensor, right: Tensor, scale: Tensor, scales: Tensor, bias: Tensor) -> Scaled:
        shape = (len(left), len(right))
        whole = scratch(f"{self.memory} in int32", shape, torch.int32, left.device)
        torch._int_mm(left, right.T, out=whole)  # pyright: ignore[reportPrivateImportUsage]
        return Scaled(whole, scale, scales, bias)

    def _floats(self, scaled: Scaled) -> Tensor:
        whole, shape = scaled.products, (scaled.products.shape[0], scaled.products.shape[1])
        same_size = self.x.dtype == torch.float32
        out = whole.view(torch.float32) if same_size else scratch(self.memory, shape, self.x.dtype, whole.device)
        self.kernels.dequantise(whole, scaled.left, scaled.right, scaled.bias, out)
        return out

    def slack(self, tile: Tensor, rows: slice) -> Tensor:
        uniform = _SIGMAS / 12**0.5  # a rounding error is uniform over one step, the scale
        of_x = self.scales[rows] * self.weight_norms.max()
        of_weight = self.norms[rows] * self.weight_scales.max()
        return uniform * torch.hypot(of_x, of_weight)
