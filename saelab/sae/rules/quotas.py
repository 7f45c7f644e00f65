"""Quotas: how often each latent is to fire, and whole numbers of tokens that add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_STEEPEST = 600.0
"""No weight of a curve is less than exp(-600) of its first: a steep one (a large shift and a larger exponent, nearly
an exponential) would leave nothing to scale."""


@dataclass(frozen=True)
class Zipf:
    """The Zipf-Mandelbrot curve `density(rank) ~ (rank + shift) ** -exponent`, ranks from 1."""

    exponent: float
    shift: float

    def densities(self, n_latents: int, total: float) -> Tensor:
        """`[lat]`, falling with the rank, with sum `total` and none above 1.

        The share that does not fit under 1 goes to the other latents in proportion.
        """
        ranks = torch.arange(1, n_latents + 1, dtype=torch.float64)
        fall = self.exponent * ((ranks + self.shift) / (1 + self.shift)).log()
        return capped((-fall.clamp_max(_STEEPEST)).exp(), total)


def capped(weights: Tensor, total: float) -> Tensor:
    """`weights` `[lat]`, positive, scaled to the sum `total` with none above 1 (`total` at most their number)."""
    free = torch.ones_like(weights, dtype=torch.bool)
    out = torch.ones_like(weights)
    while bool(free.any()):
        scale = (total - (~free).sum()) / weights[free].sum()
        out[free] = weights[free] * scale
        over = free & (out > 1)
        if not bool(over.any()):
            break
        out[over] = 1.0
        free &= ~over
    return out


_SHIFTS = tuple(2.0**power for power in range(-1, 15))


def fit_zipf(density: Tensor) -> Zipf:
    """The curve nearest to measured densities `[lat]` in any order: least squares of log density on log rank.

    Ranks are weighted by `1 / rank`, so that each octave counts the same. Latents that never fire are left
    out, and so is the last tenth of the others: the extreme tail falls below any such curve.
    """
    ordered = density[density > 0].double().sort(descending=True).values
    ordered = ordered[: max(2, round(0.9 * len(ordered)))]
    if len(ordered) < 2:
        return Zipf(0.0, 1.0)
    ranks = torch.arange(1, len(ordered) + 1, dtype=torch.float64, device=density.device)
    weights = 1 / ranks
    weights = weights / weights.sum()
    target = ordered.log()
    best = (float("inf"), 0.0, 1.0)
    for shift in _SHIFTS:
        x = (ranks + shift).log()
        dx, dy = x - (weights * x).sum(), target - (weights * target).sum()
        slope = float((weights * dx * dy).sum() / (weights * dx * dx).sum())
        error = float((weights * (dy - slope * dx).square()).sum())
        best = min(best, (error, -slope, shift))
    return Zipf(max(best[1], 0.0), best[2])


def whole_quotas(density: Tensor, n_tokens: int) -> Tensor:
    """`[lat]` int64: `density * n_tokens` in whole tokens, by largest remainders, with the sum kept.

    At least 1 each where the sum allows it, and never more than `n_tokens`.
    """
    exact = density.double() * n_tokens
    total = round(float(exact.sum()))
    least = 1 if total >= len(density) else 0
    quotas = exact.floor().long().clamp(least, n_tokens)
    missing = total - int(quotas.sum())
    while missing:
        step = 1 if missing > 0 else -1
        room = (quotas < n_tokens) if step > 0 else (quotas > least)
        want = torch.where(room, (exact - quotas) * step, -torch.inf)
        chosen = want.topk(min(abs(missing), int(room.sum()))).indices
        quotas[chosen] += step
        missing -= step * len(chosen)
    return quotas
