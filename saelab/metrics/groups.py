"""Reconstruction error by groups of tokens, whose parts add up to the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saelab.metrics.bootstrap import interval

Floats = NDArray[np.float64]

_TOKENS, _ERROR, _DEVIATION, _L0 = range(4)


def equal_groups(values: ArrayLike, n_groups: int) -> NDArray[np.int64]:
    """`[tok]`: which of `n_groups` equal parts of the tokens each value falls in, from the smallest up.

    Equal values stay together, at the middle of their ranks, so that groups of much repeated values differ in size.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.asarray(values), method="average")
    return np.floor(n_groups * (ranks - 0.5) / max(len(ranks), 1)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Groups:
    """Sums over the tokens of each group and document.

    With x the targets, r their reconstructions, and the mean E x that of all tokens of all groups:

        fvu         = sum ||x - r||^2 / sum ||x - E x||^2, over a group's tokens
        error_share = sum ||x - r||^2 of a group / the same of all

    The fvu of all tokens together is that of `Reconstruction`, and the mean of the groups' weighted by their deviation.

    Attributes:
        sums: `[documents, groups, 4]`: tokens, squared error, squared deviation from the mean, active latents.
    """

    sums: Floats

    @classmethod
    def of(
        cls, group: ArrayLike, document: ArrayLike, error: ArrayLike, deviation: ArrayLike, l0: ArrayLike, n_groups: int
    ) -> Groups:
        """From one value a token: `[tok]` each."""
        columns = [np.ones(len(np.asarray(error))), *(np.asarray(c, dtype=np.float64) for c in (error, deviation, l0))]
        _, row = np.unique(np.asarray(document), return_inverse=True)
        cell = row * n_groups + np.asarray(group)
        n_documents = int(row.max()) + 1 if len(row) else 0
        sums = [np.bincount(cell, weights=column, minlength=n_documents * n_groups) for column in columns]
        return cls(np.stack(sums, -1).astype(np.float64).reshape(n_documents, n_groups, len(columns)))

    @property
    def tokens(self) -> NDArray[np.int64]:
        """`[groups]`."""
        return self.sums[..., _TOKENS].sum(0).round().astype(np.int64)

    @property
    def fvu(self) -> Floats:
        """`[groups]`; not a number where a group is empty or does not vary."""
        return _ratio(self.sums.sum(0), _ERROR, _DEVIATION)

    @property
    def l0(self) -> Floats:
        """`[groups]` mean active latents; not a number where a group is empty."""
        return _ratio(self.sums.sum(0), _L0, _TOKENS)

    @property
    def error_share(self) -> Floats:
        """`[groups]`: parts of 1."""
        error = self.sums[..., _ERROR].sum(0)
        return error / error.sum() if error.sum() > 0 else np.full_like(error, np.nan)

    def fvu_interval(self, group: int, *, seed: int, rounds: int) -> tuple[float, float] | None:
        """95 % of a group's fvu over resampled documents (see `interval`), the mean held as it is."""
        own = self.sums[:, group]
        own = own[own[:, _TOKENS] > 0]
        return interval(own, lambda total: float(_ratio(total, _ERROR, _DEVIATION)), seed=seed, rounds=rounds)


def _ratio(sums: Floats, above: int, below: int) -> Floats:
    numerator, denominator = sums[..., above], sums[..., below]
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
