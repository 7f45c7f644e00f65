"""How well reconstructions match: sums over tokens, in float64, whatever order and batches they come in."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


def explained_variance(target: Tensor, recon: Tensor) -> Tensor:
    """`[tok, d]` twice -> `[]`: `1 - fvu` of one batch, as `Reconstruction` defines it, at the precision of the
    tensors and without waiting for the device. Not finite where the targets do not vary."""
    deviation = torch.linalg.vector_norm(target - target.mean(0))  # norms: a fused pass, where squares are written out
    return 1 - (torch.dist(target, recon) / deviation).square()


def explained_by_token(target: Tensor, recon: Tensor, mean: Tensor) -> Tensor:
    """`[tok, d]` twice and `[d]` -> `[tok]`: `1 - ||x - r||^2 / ||x - mean||^2`. Its mean over tokens is not the
    explained variance: tokens close to the mean count as much as those that make up the variance."""
    return 1 - (target - recon).square().sum(1) / (target - mean).square().sum(1)


@dataclass
class Reconstruction:
    """Accumulates over `[tok, d]` targets and reconstructions, and the L0 of their codes.

    With x the target and r its reconstruction, over all tokens seen:

        fvu                 = E||x - r||^2 / (E||x||^2 - ||E x||^2)
        explained_variance  = 1 - fvu
        mse                 = E||x - r||^2 / d
        nmse                = E||x - r||^2 / E||x||^2
        cosine              = E[<x, r> / (||x|| ||r||)]
        shrinkage           = E||r||^2 / E<x, r>, the gamma that minimises E||r / gamma - x||^2; below 1 the
                              reconstruction is too short
        l0, l0_std          = mean and standard deviation over tokens of the active latents
    """

    n_tokens: int = 0
    d: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    total: Tensor | None = None

    @torch.no_grad()
    def update(self, target: Tensor, recon: Tensor, l0: Tensor) -> None:
        if target.device.type == "mps":  # which has no float64
            target, recon, l0 = target.cpu(), recon.cpu(), l0.cpu()
        x, r, l0 = target.double(), recon.double(), l0.double()
        dot, x2, r2 = (x * r).sum(1), x.square().sum(1), r.square().sum(1)
        cosine = dot / (x2 * r2).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        for name, value in {
            "error": (x - r).square().sum(),
            "x2": x2.sum(),
            "r2": r2.sum(),
            "dot": dot.sum(),
            "cosine": cosine.sum(),
            "l0": l0.sum(),
            "l0_squared": l0.square().sum(),
        }.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.item()
        self.total = x.sum(0) if self.total is None else self.total + x.sum(0)
        self.n_tokens += x.shape[0]
        self.d = x.shape[1]

    def result(self) -> dict[str, float]:
        """The metrics; empty where no token was seen."""
        if self.n_tokens == 0 or self.total is None:
            return {}
        n = self.n_tokens
        mean = {name: value / n for name, value in self.sums.items()}
        variance = mean["x2"] - float((self.total / n).square().sum())
        fvu = mean["error"] / variance if variance > 0 else float("inf")
        return {
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "mse": mean["error"] / self.d,
            "nmse": mean["error"] / mean["x2"] if mean["x2"] > 0 else float("inf"),
            "cosine": mean["cosine"],
            "shrinkage": mean["r2"] / mean["dot"] if mean["dot"] else float("nan"),
            "l0": mean["l0"],
            "l0_std": max(mean["l0_squared"] - mean["l0"] ** 2, 0.0) ** 0.5,
        }
