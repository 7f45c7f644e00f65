"""Selection rules: the proximal step that turns pre-activations into a sparse code.

A rule answers three questions. Which entries may be in the code, given all pre-activations
(`candidates`)? Which of those are, once their values are exact (`narrow`; only asked when candidates
came from low precision)? What value does a kept entry take (`activate`, differentiable)?
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.kernels import Support, top_k


class SelectionRule(Protocol):
    """One selection rule; `pre` is `[tok, lat]`, entries are as in `saelab.kernels.Support`.

    Attributes:
        per_token: whether a token's code depends on that token alone, so that a batch may be cut up.
    """

    per_token: bool

    def check(self, n_latents: int) -> None:
        """Raise `SettingError` where the rule cannot work on so many latents."""
        ...

    def candidates(self, pre: Tensor, *, screened: bool) -> Support:
        """The support for these pre-activations; with `screened`, a superset that allows for the
        rounding of bfloat16."""
        ...

    def narrow(self, values: Tensor, candidates: Support) -> Support:
        """The support among screened candidates, given their exact pre-activations."""
        ...

    def activate(self, values: Tensor) -> Tensor:
        """Pre-activations at the support -> activations; entries that become 0 get no gradient."""
        ...

    def inference(self) -> SelectionRule:
        """The per-token form in which the rule is deployed."""
        ...


class _TokenBudget:
    """k entries per token, by a score."""

    per_token = True
    MARGIN = 1.25
    """Candidates over k in a bfloat16 screening (4 extra of 32 held 100 % of the support; this is 8)."""

    def __init__(self, k: int):
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

    def candidates(self, pre: Tensor, *, screened: bool) -> Support:
        n_latents = pre.shape[1]
        wanted = max(self.k + 4, round(self.k * self.MARGIN)) if screened else self.k
        width = min(n_latents, wanted)
        return Support.from_rows(top_k(self.score(pre), width)[1], n_latents)

    def narrow(self, values: Tensor, candidates: Support) -> Support:
        assert candidates.width is not None
        latents = candidates.latents.view(-1, candidates.width)
        kept = top_k(self.score(values).view_as(latents), self.k)[1]
        return Support.from_rows(latents.gather(1, kept), candidates.n_latents)

    def inference(self) -> Self:
        return self


class TopK(_TokenBudget):
    """The k largest pre-activations of each token; those that are not positive become 0.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 2.3; the prox of `||z||_0 <= k, z >= 0`.
    """

    def score(self, values: Tensor) -> Tensor:
        return values

    def activate(self, values: Tensor) -> Tensor:
        return torch.relu(values)


class AbsTopK(_TokenBudget):
    """The k pre-activations of largest magnitude of each token, sign kept.

    Source: AbsTopK (arXiv 2510.00404), the prox of `||z||_0 <= k`.
    """

    def score(self, values: Tensor) -> Tensor:
        return values.abs()

    def activate(self, values: Tensor) -> Tensor:
        return torch.where(values != 0, values, 0.0)


class ReLU:
    """Every positive pre-activation. The prox of a non-negative L1 penalty (the shift is in `b_enc`)."""

    per_token = True
    SLACK = 2.0**-6
    """Screening keeps entries above `-SLACK * max|pre|` of their token: four bfloat16 roundings."""

    def check(self, n_latents: int) -> None:
        pass

    def candidates(self, pre: Tensor, *, screened: bool) -> Support:
        if not screened:
            return Support.from_mask(pre > 0)
        return Support.from_mask(pre > -self.SLACK * pre.abs().amax(1, keepdim=True))

    def narrow(self, values: Tensor, candidates: Support) -> Support:
        return candidates  # what is not positive becomes 0 and is not active

    def activate(self, values: Tensor) -> Tensor:
        return torch.relu(values)

    def inference(self) -> SelectionRule:
        return self
