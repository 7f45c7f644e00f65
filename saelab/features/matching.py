"""Which latents of two SAEs write in the same direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab.errors import SaelabError

_BLOCK_ENTRIES = 1 << 24
"""Cosines held at once."""


@dataclass(frozen=True)
class Match:
    """A latent of the left SAE, one of the right, and their decoder rows' cosine."""

    left: int
    right: int
    cosine: float


@dataclass(frozen=True, eq=False)
class Matching:
    """Every latent's nearest one on the other side, by decoder cosine.

    Attributes:
        right_of: `[left]`, the latent nearest to each on the left; right_cosine: `[left]`, how near.
        left_of: `[right]`; left_cosine: `[right]`: the same the other way round.
    """

    right_of: NDArray[np.int64]
    right_cosine: NDArray[np.float32]
    left_of: NDArray[np.int64]
    left_cosine: NDArray[np.float32]

    def mutual(self, threshold: float = -1.0) -> list[Match]:
        """Pairs in which each is the other's nearest, the closest first."""
        left = np.arange(len(self.right_of))
        return self._matches(left[self.left_of[self.right_of] == left], threshold)

    def nearest(self, threshold: float = -1.0) -> list[Match]:
        """Every latent on the left with its nearest on the right, which several may share; the closest first."""
        return self._matches(np.arange(len(self.right_of)), threshold)

    def unmatched(self, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Latents of the left, and of the right, that have nothing as near as this on the other side; the loneliest
        first."""
        left, right = (
            np.argsort(cosine, kind="stable")[: np.count_nonzero(cosine < threshold)]
            for cosine in (self.right_cosine, self.left_cosine)
        )
        return left, right

    def _matches(self, left: NDArray[np.int64], threshold: float) -> list[Match]:
        left = left[self.right_cosine[left] >= threshold]
        left = left[np.argsort(-self.right_cosine[left], kind="stable")]
        return [Match(int(i), int(self.right_of[i]), float(self.right_cosine[i])) for i in left]


@torch.no_grad()
def match(left: Tensor, right: Tensor, *, report: Callable[[int, int], object] = lambda done, total: None) -> Matching:
    """Compare the decoder rows of two SAEs, `[left, d_out]` and `[right, d_out]`; a row of norm 0 is near to none.

    A block of cosines is held at a time, so that memory does not grow with the product of the widths.

    Args:
        report: called with (done, total) latents of the left.

    Raises:
        SaelabError: they write to hooks of different widths.
    """
    if left.shape[1] != right.shape[1]:
        raise SaelabError(
            f"these SAEs write activations of different widths, {left.shape[1]} and {right.shape[1]}",
            where="compare",
            fix="choose two SAEs of the same hook",
        )
    columns = _unit(right).T
    rows = max(1, _BLOCK_ENTRIES // max(right.shape[0], 1))
    nearest, found = [], []
    back, back_cosine = torch.zeros(len(right), dtype=torch.long), torch.full((len(right),), -torch.inf)
    for start in range(0, len(left), rows):
        cosines = _unit(left[start : start + rows]) @ columns
        cosine, index = cosines.max(1)
        nearest.append(index)
        found.append(cosine)
        cosine, index = cosines.max(0)
        better = cosine > back_cosine
        back_cosine[better], back[better] = cosine[better], index[better] + start
        report(min(start + rows, len(left)), len(left))
    there = (torch.cat(nearest).numpy(), torch.cat(found).clamp(-1, 1).numpy())
    return Matching(*there, back.numpy(), back_cosine.clamp(-1, 1).numpy())


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.detach().float().cpu(), dim=1)
