"""Which entries of a tile of scores are among the largest, or above a threshold: in torch, on any device.

The counterpart of `saelab.kernels.jit.selection`, which says what each function returns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saelab.kernels.builtin import by_key
from saelab.kernels.ops import top_k
from saelab.kernels.products import Tiles
from saelab.kernels.support import Support


class TopRows:
    """The k largest of each row, as tiles of columns come in."""

    def __init__(self, n_rows: int, k: int, like: Tiles):
        self.k = k
        self.values = torch.full((n_rows, k), -torch.inf, dtype=like.dtype, device=like.device)
        self.columns = torch.arange(k, dtype=torch.int32, device=like.device).repeat(n_rows, 1)

    def push(self, tile: Tensor, rows: slice, start: int) -> None:
        values, columns = top_k(tile, min(self.k, tile.shape[1]))
        if start > 0:
            values = torch.cat([self.values[rows], values], 1)
            columns = torch.cat([self.columns[rows], columns.to(torch.int32) + start], 1)
            values, picked = values.topk(self.k, dim=1, sorted=False)
            columns = columns.gather(1, picked)
        width = values.shape[1]  # the first tile may be narrower than k; later ones fill up
        self.values[rows, :width], self.columns[rows, :width] = values, columns.to(torch.int32)

    def finish(self) -> Tensor:
        return self.columns


def best_in_rows(scores: Tensor, k: int) -> Tensor:
    return scores.topk(k, dim=1, sorted=False).indices


def above(tile: Tensor, threshold: Tensor, slack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kept = tile > threshold - slack[:, None]
    return kept.sum(1, dtype=torch.int32), tile[kept], kept.nonzero()[:, 1].to(torch.int32)


def copy_runs(
    counts: Tensor, target: Tensor, values: Tensor, columns: Tensor, add: int, out_values: Tensor, out_columns: Tensor
) -> None:
    source = counts.cumsum(0) - counts
    shift = torch.repeat_interleave(target - source, counts, output_size=len(values))
    place = torch.arange(len(values), device=values.device) + shift
    out_values[place], out_columns[place] = values, columns + add


def best_of_rows(tile: Tensor, quotas: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    most = min(int(quotas.max()), tile.shape[1]) if len(quotas) else 0
    values, columns = tile.topk(most, dim=1)
    ranks = torch.arange(most, device=tile.device)
    kept = (ranks < quotas[:, None]) & (values > floor[:, None])
    return kept.sum(1, dtype=torch.int32), columns[kept].to(torch.int32)


def best_of_latents(values: Tensor, support: Support, quotas: Tensor) -> Tensor:
    kept = values[: support.nnz]
    latents = support.latents[: support.nnz].long()
    order = kept.argsort(descending=True, stable=True)
    order = order[latents[order].argsort(stable=True)]
    starts = torch.bincount(latents, minlength=support.n_latents).cumsum(0).roll(1)
    starts[0] = 0
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts[latents[order]]
    return (rank < quotas[latents]) & (kept > 0)


__all__ = ["TopRows", "above", "best_in_rows", "best_of_latents", "best_of_rows", "by_key", "copy_runs"]
