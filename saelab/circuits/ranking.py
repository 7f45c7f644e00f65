"""How well scores rank a circuit's heads before the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saelab.circuits.scores import Scores
from saelab.circuits.truth import Truth

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Ranking:
    """Of one method against one truth. None: not to be measured, since all heads are in the circuit or none is.

    Attributes:
        auc: probability that a head of the circuit scores above another one.
        average_precision: mean precision at the circuit's heads.
        precision, recall: at n = the circuit's size (they are equal there), and at `n` of `at`.
        rank_correlation: Spearman's, of strengths with absolute effects by exact patching.
        auc_interval: 95 %, resampling heads.
    """

    auc: float | None
    average_precision: float | None
    precision: dict[int, float]
    recall: dict[int, float]
    rank_correlation: float | None
    size: int
    auc_interval: tuple[float, float] | None = None


def rank(scores: Scores, truth: Truth, *, at: tuple[int, ...] = (5, 10, 20), seed: int = 0, rounds: int = 0) -> Ranking:
    """Measure a method.

    Args:
        at: numbers of heads at which precision and recall are given, besides the circuit's size.
        rounds: of the bootstrap; 0 leaves the interval out.
    """
    values, known = _flat(scores.strength), truth.members.flatten().numpy()
    size = int(known.sum())
    cuts = sorted({n for n in (*at, size) if 0 < n <= len(values)})
    hits = {n: expected_hits(values, known, n) for n in cuts}
    measured = 0 < size < len(values)
    return Ranking(
        auc=auc(values, known) if measured else None,
        average_precision=average_precision(values, known) if measured else None,
        precision={n: hits[n] / n for n in cuts},
        recall={n: hits[n] / size for n in cuts} if size else {},
        rank_correlation=None if truth.effects is None else spearman(values, _flat(truth.effects.abs())),
        size=size,
        auc_interval=resampled(auc, values, known, seed, rounds) if measured and rounds else None,
    )


def auc(values: Floats, known: Bools) -> float:
    """From the ranks of the circuit's heads (Mann and Whitney); ties count half."""
    from scipy.stats import rankdata

    inside = int(known.sum())
    below = rankdata(values)[known].sum() - inside * (inside + 1) / 2
    return float(below / (inside * (len(known) - inside)))


def average_precision(values: Floats, known: Bools) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(known, values))


def roc(values: Floats, known: Bools) -> list[tuple[float, float]]:
    """(false, true) positive rates, to be drawn."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(known, values)
    return list(zip(false.tolist(), true.tolist(), strict=True))


def expected_hits(values: Floats, known: Bools, n: int) -> float:
    """Heads of the circuit among the `n` strongest; of those that tie for the last places, their expected share."""
    last = np.sort(values)[::-1][n - 1]
    above, level = values > last, values == last
    return float(known[above].sum() + known[level].mean() * (n - above.sum()))


def spearman(a: Floats, b: Floats) -> float | None:
    from scipy.stats import spearmanr

    if a.std() == 0 or b.std() == 0:
        return None
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def resampled(
    statistic: Callable[[Floats, Bools], float], values: Floats, known: Bools, seed: int, rounds: int
) -> tuple[float, float] | None:
    """The central 95 % over resampled heads, those of the circuit and the others each among themselves."""
    rng = np.random.default_rng(seed)
    inside, outside = np.flatnonzero(known), np.flatnonzero(~known)
    found: list[float] = []
    for _ in range(rounds):
        drawn = np.concatenate([rng.choice(inside, len(inside)), rng.choice(outside, len(outside))])
        found.append(statistic(values[drawn], known[drawn]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _flat(values: Tensor) -> Floats:
    return values.flatten().double().numpy()
