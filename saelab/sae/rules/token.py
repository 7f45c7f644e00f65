"""Rules with a budget per token."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.kernels import Support, sampled_dot, top_k
from saelab.sae.code import Seen
from saelab.sae.rules.base import SelectionRule


class _TokenBudget(SelectionRule):
    """k entries per token, by a score."""

    screens = True
    MARGIN = 1.25
    """Candidates over k in a bfloat16 screening (4 extra of 32 held 100 % of the support; this is 8)."""

    def __init__(self, k: int):
        super().__init__()
        if k < 1:
            raise SettingError("k", f"k must be at least 1, not {k}")
        self.k = k

    def score(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def check(self, n_latents: int) -> None:
        if self.k > n_latents:
            raise SettingError(
                "k", f"k = {self.k} is more than n_latents = {n_latents}", fix="lower k or widen the SAE"
            )

    def width(self, n_latents: int, *, screened: bool) -> int:
        """Entries per token: k, and in a screening some more; a rule given fewer latents keeps them all."""
        return min(n_latents, max(self.k + 4, round(self.k * self.MARGIN)) if screened else self.k)

    def candidates(self, pre: Tensor, seen: Seen, *, screened: bool = False) -> Support:
        width = self.width(pre.shape[1], screened=screened)
        return Support.from_rows(top_k(self.score(pre), width)[1], pre.shape[1])

    def narrow(self, values: Tensor, candidates: Support, seen: Seen) -> Support:
        return self._best(self.score(values), candidates)

    def _best(self, scores: Tensor, candidates: Support) -> Support:
        assert candidates.width is not None
        latents = candidates.latents.view(-1, candidates.width)
        kept = top_k(scores.view_as(latents), self.k)[1]
        return Support.from_rows(latents.gather(1, kept), candidates.n_latents)


class TopK(_TokenBudget):
    """The k largest pre-activations of each token; those that are not positive become 0.

    Source: Gao et al. 2024 (arXiv 2406.04093); the prox of `||z||_0 <= k, z >= 0`.
    """

    def score(self, values: Tensor) -> Tensor:
        return values

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.relu(values)


class AbsTopK(_TokenBudget):
    """The k pre-activations of largest magnitude of each token, sign kept.

    Source: AbsTopK (arXiv 2510.00404), the prox of `||z||_0 <= k`.
    """

    def score(self, values: Tensor) -> Tensor:
        return values.abs()

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

    mean_attribution: Tensor

    def __init__(self, k: int, beta: float, *, normalise: bool):
        super().__init__(k)
        if beta < 0:
            raise SettingError("beta", f"must not be negative, found {beta}")
        self.beta, self.normalise = beta, normalise
        self.register_buffer("mean_attribution", torch.zeros(()))

    def candidates(self, pre: Tensor, seen: Seen, *, screened: bool = False) -> Support:
        attribution = (seen.side["loss_grad"] @ seen.W_dec.T).abs_()
        if self.training and len(pre):
            self._follow(attribution.mean())
        width = self.width(pre.shape[1], screened=screened)
        return Support.from_rows(top_k(pre * self._weight(attribution).to(pre.dtype), width)[1], pre.shape[1])

    def narrow(self, values: Tensor, candidates: Support, seen: Seen) -> Support:
        attribution = sampled_dot(seen.side["loss_grad"], seen.W_dec, candidates).abs()
        return self._best(values * self._weight(attribution), candidates)

    def _follow(self, mean: Tensor) -> None:
        started = self.mean_attribution > 0
        rate = torch.where(started, self.RATE, 1.0).to(mean)
        self.mean_attribution.lerp_(mean.to(self.mean_attribution), rate.to(self.mean_attribution))

    def _weight(self, attribution: Tensor) -> Tensor:
        unit = self.mean_attribution.clamp_min(torch.finfo(attribution.dtype).tiny) if self.normalise else 1.0
        return 1 + self.beta * attribution / unit

    def inference(self) -> TopK:
        return TopK(self.k)


class FeatureActivation(SelectionRule):
    """As many latents per token as their norm needs to come closest to the input's (top-AFA).

    With `s` the squares of `relu(u_i) ||d_i||` in descending order and `c_n` the root of the sum of the
    first n, keeps the `argmin_n |c_n - ||x|| |` largest; the first of equals, and all positive ones where
    even they do not reach `||x||`. `x` is the centred input.

    Source: top-AFA (arXiv 2503.24277); the official code excludes n = n_latents, which
    differs only for a code with no zero.
    """

    FIRST_WIDTH = 256
    """Latents sorted at first; doubled until the norm is reached, which gives the same as sorting all."""

    def candidates(self, pre: Tensor, seen: Seen, *, screened: bool = False) -> Support:
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
