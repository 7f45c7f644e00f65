"""Rules with a budget per token."""

from __future__ import annotations

from functools import partial
from typing import Self

import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.kernels import PerToken, Support
from saelab.sae.code import Seen
from saelab.sae.rules.base import SelectionRule


class _TokenBudget(SelectionRule):
    """k entries per token, by a score."""

    def __init__(self, k: int):
        super().__init__()
        if k < 1:
            raise SettingError("k", f"k must be at least 1, not {k}")
        self.k = k

    def check(self, n_latents: int) -> None:
        if self.k > n_latents:
            raise SettingError(
                "k", f"k = {self.k} is more than n_latents = {n_latents}", fix="lower k or widen the SAE"
            )


class TopK(_TokenBudget):
    """The k largest pre-activations of each token; those that are not positive become 0.

    Source: Gao et al. 2024 (arXiv 2406.04093); the prox of `||z||_0 <= k, z >= 0`.
    """

    def budget(self, seen: Seen, n_latents: int) -> PerToken:
        return PerToken(self.k)

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.relu(values)


class AbsTopK(_TokenBudget):
    """The k pre-activations of largest magnitude of each token, sign kept.

    Source: AbsTopK (arXiv 2510.00404), the prox of `||z||_0 <= k`.
    """

    def budget(self, seen: Seen, n_latents: int) -> PerToken:
        return PerToken(self.k, torch.Tensor.abs_)

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.where(values != 0, values, 0.0)


class GradientTopK(TopK):
    """The k latents of each token that are active and matter to the language model's loss.

    Ranked by `u_i (1 + beta |d_i . g| / m)`, with `u` the pre-activations, `g` the gradient of the summed
    loss with respect to the input, and `m` a running mean of `|d_i . g|` over tokens and latents, so that
    `beta` has no unit (`normalise`; without it m = 1). Values stay raw: only the ranking changes, and no
    gradient flows through it. Deployed as plain TopK, which needs no `g`.

    Source: gradient SAEs (arXiv 2411.10397), known to us from its abstract and summaries, which say that TopK
    is augmented by `beta z |W_dec g|`; this reads that as `z + beta z |W_dec g|` (the alternative, the
    second term alone, is the limit of large beta). The division by the running mean is ours.
    """

    requires = frozenset({"loss_grad"})
    RATE = 0.01
    """Weight of a batch in the running mean."""
    SAMPLE = 512
    """Latents, evenly spaced, over which that mean is taken."""

    mean_attribution: Tensor

    def __init__(self, k: int, beta: float, *, normalise: bool):
        super().__init__(k)
        if beta < 0:
            raise SettingError("beta", f"must not be negative, found {beta}")
        self.beta, self.normalise = beta, normalise
        self.register_buffer("mean_attribution", torch.zeros(()))

    def budget(self, seen: Seen, n_latents: int) -> PerToken:
        grad, rows = seen.side["loss_grad"], seen.W_dec
        if self.training and len(grad):
            self._follow((grad @ rows[:: max(1, n_latents // self.SAMPLE)].T).abs_().mean())
        known = self.normalise & (self.mean_attribution > 0)
        unit = torch.where(known, self.mean_attribution, 1.0).to(grad.dtype)
        return PerToken(self.k, partial(_attributed, float(self.beta / unit)), ((grad, rows),))

    def _follow(self, mean: Tensor) -> None:
        started = self.mean_attribution > 0
        rate = torch.where(started, self.RATE, 1.0).to(mean)
        self.mean_attribution.lerp_(mean.to(self.mean_attribution), rate.to(self.mean_attribution))

    def inference(self) -> TopK:
        return TopK(self.k)


def _attributed(weight: float, pre: Tensor, attribution: Tensor) -> Tensor:
    return pre.addcmul_(pre, attribution.abs_(), value=weight)


class FeatureActivation(SelectionRule):
    """As many latents per token as their norm needs to come closest to the input's (top-AFA).

    With `s` the squares of `relu(u_i) ||d_i||` in descending order and `c_n` the root of the sum of the
    first n, keeps the `argmin_n |c_n - ||x|| |` largest; the first of equals, and all positive ones where
    even they do not reach `||x||`. `x` is the centred input.

    Source: top-AFA (arXiv 2503.24277); the official code excludes n = n_latents, which
    differs only for a code with no zero.
    """

    bound_to_input = "measures a code by the norm of what is reconstructed"
    FIRST_WIDTH = 256
    """Latents sorted at first; doubled until the norm is reached, which gives the same as sorting all."""

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        strength = torch.relu(pre).mul_(seen.W_dec.norm(dim=1).to(pre.dtype))
        norm = seen.x.norm(dim=1, keepdim=True).to(pre.dtype)
        width, n_latents = min(self.FIRST_WIDTH, pre.shape[1]), pre.shape[1]
        while True:
            ordered, latents = strength.topk(width, dim=1)
            reached = ordered.square().cumsum(1).sqrt()
            if width == n_latents or bool(((reached[:, -1:] >= norm) | (ordered[:, -1:] == 0)).all()):
                break
            width = min(2 * width, n_latents)
        kept = (reached - norm).abs().argmin(1, keepdim=True) if len(pre) else norm.long()
        mask = (torch.arange(width, device=pre.device) <= kept) & (ordered > 0)
        rows, columns = mask.nonzero(as_tuple=True)
        return Support.from_entries(rows, latents[rows, columns], *pre.shape)

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.relu(values)

    def inference(self) -> Self:
        return self
