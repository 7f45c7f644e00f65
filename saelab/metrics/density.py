"""How often each latent is active."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DENSE_FROM = 0.1
"""A latent active on more than this share of tokens is called dense."""

BIN_EDGES = tuple(0.5 * i for i in range(-14, 1))
"""Edges of the density histogram, log10: from 1e-7 to 1, two bins a decade."""


@dataclass
class Density:
    """Accumulates firing counts: `[lat]` int64, over `n_tokens`."""

    n_latents: int
    n_tokens: int = 0
    counts: Tensor | None = None

    def update(self, counts: Tensor, n_tokens: int) -> None:
        self.counts = counts.clone() if self.counts is None else self.counts + counts
        self.n_tokens += n_tokens

    def per_latent(self) -> Tensor:
        """`[lat]` float64: the share of tokens on which each latent is active."""
        counts = torch.zeros(self.n_latents) if self.counts is None else self.counts
        return counts.double().cpu() / max(self.n_tokens, 1)

    def result(self) -> dict[str, float]:
        """`dead_frac` (never active over `n_tokens`), `dense_frac` (on more than a tenth of them),
        `median_density` of the latents that are not dead."""
        density = self.per_latent()
        alive = density[density > 0]
        return {
            "dead_frac": float((density == 0).double().mean()),
            "dense_frac": float((density > DENSE_FROM).double().mean()),
            "median_density": float(alive.median()) if alive.numel() else 0.0,
        }

    def histogram(self) -> dict[str, list[float]]:
        """Latents per bin of log10 density; the dead are in none. The top edge is included."""
        density = self.per_latent()
        logs = density[density > 0].log10()
        edges = torch.tensor(BIN_EDGES, dtype=torch.float64)
        bins = (torch.bucketize(logs, edges, right=True) - 1).clamp(0, len(BIN_EDGES) - 2)
        heights = torch.bincount(bins, minlength=len(BIN_EDGES) - 1)
        return {"log10_density_edges": list(BIN_EDGES), "latents": heights.tolist()}
