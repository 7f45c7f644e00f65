"""Linear readers of activations and codes, judged so that no class or cell counts for more than another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab import metrics
from saelab.sae import SparseCode

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]
"""`[example]`: which of the groups that count alike an example is of: its class, or its cell of two labels."""

INVERSE_PENALTY = 0.1
"""scikit-learn's C of every logistic regression here, on standardised columns."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Says yes where `x @ weight + bias` is above 0; `weight` `[d]` in the units of what it reads."""

    weight: Floats
    bias: float

    def scores(self, x: Floats) -> Floats:
        """`[example, d]` -> `[example]`."""
        return x @ self.weight + self.bias


def logistic(x: Floats, positive: NDArray[np.bool_], groups: Groups | None = None) -> Probe:
    """A logistic regression on standardised columns, fitted with equal total weight for each group (None: the two
    classes). Columns that do not vary get no weight."""
    from sklearn.linear_model import LogisticRegression

    groups = positive.astype(np.int64) if groups is None else groups
    mean, deviation = x.mean(0), x.std(0)
    varies = deviation > 1e-9 * np.abs(x).max(0, initial=0)
    scale = np.where(varies, deviation, 1)
    standard = (x - mean) * varies / scale
    fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=5000).fit(standard, positive, _even(groups))
    weight = fitted.coef_[0] * varies / scale
    return Probe(weight, float(fitted.intercept_[0] - mean @ weight))


def difference_in_means(x: Floats, positive: NDArray[np.bool_]) -> Probe:
    """The direction from one class's mean to the other's, cut half-way."""
    high, low = x[positive].mean(0), x[~positive].mean(0)
    return Probe(high - low, float(-(high - low) @ (high + low) / 2))


def accuracy(correct: NDArray[np.bool_], groups: Groups) -> float:
    """Mean over groups of the share that is right: always to guess one of two classes gives 0.5."""
    return float(np.mean([correct[groups == group].mean() for group in np.unique(groups)]))


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive example scores above another one."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def accuracy_interval(
    correct: NDArray[np.bool_], groups: Groups, context: NDArray[np.int64], *, seed: int, rounds: int
) -> tuple[float, float] | None:
    """Of the mean `accuracy` of several questions `[question, example]`, resampling contexts: examples of one context
    are not independent. Both `correct` and `groups` are of that shape."""
    cells = [groups[question] == group for question in range(len(groups)) for group in np.unique(groups[question])]
    right = [correct[question] for question in range(len(groups)) for _ in np.unique(groups[question])]
    columns = np.stack([*cells, *(cell & ok for cell, ok in zip(cells, right, strict=True))], 1).astype(np.float64)
    n = len(cells)

    def mean(total: Floats) -> float:
        present = total[:n] > 0  # a rare class may be missing from a resample
        return float((total[n:][present] / total[:n][present]).mean()) if present.any() else float("nan")

    return metrics.interval(by_context(columns, context), mean, seed=seed, rounds=rounds)


def by_context(columns: Floats, context: NDArray[np.int64]) -> Floats:
    """Sums of `[example, column]` over the examples of each context."""
    numbers, owner = np.unique(context, return_inverse=True)
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, owner, columns)
    return sums


def contrast(positive: Tensor, among: Tensor, groups: Tensor | None = None) -> Tensor:
    """`[example]` float64 weights whose sum with anything is its mean on positive examples minus that on the others,
    `among` these alone; in each mean the groups (None: all is one) count alike."""
    weights = torch.zeros(len(positive), dtype=torch.float64)
    groups = torch.zeros(len(positive), dtype=torch.long) if groups is None else groups
    for sign, side in ((1, positive & among), (-1, ~positive & among)):
        present = groups[side].unique()
        for group in present:
            cell = side & (groups == group)
            weights[cell] = sign / (len(present) * int(cell.sum()))
    return weights


def latent_sums(code: SparseCode, weights: Tensor) -> Tensor:
    """`[lat]` float64: the weighted sum of each latent's values over tokens, weights `[tok]`."""
    nnz, rows = code.support.nnz, code.support.rows
    products = code.values[:nnz].double() * weights.to(code.values.device)[rows]
    return torch.bincount(code.latents[:nnz].long(), products, minlength=code.n_latents).cpu()


def columns(code: SparseCode, latents: Tensor) -> Floats:
    """`[tok, n]`: the values of these latents."""
    nnz = code.support.nnz
    place = torch.full((code.n_latents,), -1)
    place[latents] = torch.arange(len(latents))
    at, rows = place[code.latents[:nnz].long().cpu()], code.support.rows.cpu()
    dense = torch.zeros(code.n_tokens, len(latents), dtype=torch.float64)
    inside = at >= 0
    dense[rows[inside], at[inside]] = code.values[:nnz].detach().double().cpu()[inside]
    return dense.numpy()


def strongest(scores: Tensor, n: int) -> Tensor:
    """The `n` latents of the highest scores, the highest first, the lower number first where they are equal."""
    return scores.sort(descending=True, stable=True).indices[:n]


def _even(groups: Groups) -> Floats:
    _, member, count = np.unique(groups, return_inverse=True, return_counts=True)
    return len(groups) / (len(count) * count[member])
