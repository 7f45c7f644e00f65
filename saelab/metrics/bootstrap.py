"""Bootstrap intervals over documents: tokens of one document are not independent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def interval(
    sums: np.ndarray, statistic: Callable[[np.ndarray], float], *, seed: int, rounds: int = 1000
) -> tuple[float, float] | None:
    """The central 95 % of `statistic` over resampled documents.

    Args:
        sums: `[documents, columns]`, each document's sums.
        statistic: of the summed columns `[columns]`.

    Returns:
        None where there are fewer than two documents, or the statistic is not finite on some resamples.
    """
    n = len(sums)
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    values = [statistic(sums[rng.integers(n, size=n)].sum(0)) for _ in range(rounds)]
    low, high = np.percentile(values, [2.5, 97.5])
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None
