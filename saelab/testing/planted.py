"""Planted worlds: activations made from known sparse features, so that what an SAE finds can be checked.

A world is a small frozen record; equal records give the same features. `world.sample(n_tokens, generator)`
draws tokens, `world.features` are the true unit directions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from saelab.errors import SettingError
from saelab.testing import recovery

MAGNITUDE, SPREAD = 1.5, 0.25
"""Mean and standard deviation of an active feature's coefficient."""


def stream(seed: int, purpose: str) -> torch.Generator:
    """A generator for one purpose. Features, weights and tokens must not come from the same numbers: an
    SAE initialised from those that made the world knows its features before it is trained."""
    import numpy as np

    (state,) = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)  # torch uses 32 bits of a seed
    return torch.Generator().manual_seed(int(state))


@dataclass(frozen=True, eq=False)
class Sample:
    """Tokens of a world.

    Attributes:
        x: `[tok, d]` activations.
        codes: `[tok, features]`, the true coefficients; negative ones only in signed worlds.
        loss_grad: `[tok, d]`, the gradient of the summed downstream loss, in worlds that have one.
    """

    x: Tensor
    codes: Tensor
    loss_grad: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class World(ABC):
    """What every planted world offers.

    Attributes:
        seed: of the features.
        signed: whether a feature and its negation are one concept.
    """

    seed: int = 0
    signed: ClassVar[bool] = False

    @cached_property
    @abstractmethod
    def features(self) -> Tensor:
        """`[features, d]` unit rows."""

    @cached_property
    @abstractmethod
    def frequencies(self) -> Tensor:
        """`[features]`: how often each is active."""

    @property
    def l0(self) -> float:
        """Expected number of active features per token."""
        return float(self.frequencies.sum())

    @abstractmethod
    def sample(self, n_tokens: int, generator: torch.Generator) -> Sample:
        """Fresh tokens."""

    def own_metrics(self, sample: Sample, learned: Tensor, codes: Tensor, recon: Tensor) -> dict[str, float]:
        """What only this world can measure of a dictionary `[F, d]`, its codes and reconstructions of `sample`."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Superposed(World):
    """Sparse non-negative sums of random directions, `x = codes features + noise`.

    Feature i is active with probability proportional to `1 / (i + 1)^zipf`; its magnitude is drawn from
    N(1.5, 0.25^2). Correlated features come in groups of eight (every `n_features / 8`-th, so that
    each holds common and rare ones) that share a Gaussian: i is active where
    `sqrt(correlation) group + sqrt(1 - correlation) own` exceeds its quantile, which leaves every
    frequency as it is.

    Attributes:
        n_active: expected active features per token.
        zipf: exponent of the frequencies; 0 makes them equal.
        correlation: of the Gaussians behind two features of one group, in [0, 1).
        noise: expected norm of an isotropic Gaussian added to each token, in units of a feature's magnitude.
    """

    d_model: int = 64
    n_features: int = 64
    n_active: float = 3.0
    zipf: float = 0.0
    correlation: float = 0.0
    noise: float = 0.0

    GROUP: ClassVar[int] = 8

    def __post_init__(self) -> None:
        if not 0 <= self.correlation < 1:
            raise SettingError("correlation", f"must be at least 0 and below 1, found {self.correlation}")
        most = float(self.frequencies.max())
        if most >= 1:
            raise SettingError(
                "n_active",
                f"the most frequent feature would be active with probability {most:.2f}",
                fix="lower n_active or zipf",
            )

    @cached_property
    def features(self) -> Tensor:
        return recovery.random_dictionary(self.n_features, self.d_model, stream(self.seed, "features"))

    @cached_property
    def frequencies(self) -> Tensor:
        weights = torch.arange(1, self.n_features + 1).double() ** -self.zipf
        return self.n_active * weights / weights.sum()

    def sample(self, n_tokens: int, generator: torch.Generator) -> Sample:
        codes = self._codes(n_tokens, generator)
        noise = torch.randn(n_tokens, self.d_model, generator=generator)
        scale = self.noise * MAGNITUDE / math.sqrt(self.d_model)
        return Sample(codes @ self.features + scale * noise, codes)

    def _codes(self, n_tokens: int, generator: torch.Generator) -> Tensor:
        own = torch.randn(n_tokens, self.n_features, generator=generator)
        n_groups = math.ceil(self.n_features / self.GROUP)
        shared = torch.randn(n_tokens, n_groups, generator=generator).repeat(1, self.GROUP)[:, : self.n_features]
        level = math.sqrt(self.correlation) * shared + math.sqrt(1 - self.correlation) * own
        active = level > torch.special.ndtri(1 - self.frequencies).float()
        codes = torch.zeros_like(own)
        codes[active] = _magnitudes(int(active.sum()), MAGNITUDE, generator)
        return codes


@dataclass(frozen=True, kw_only=True)
class Signed(Superposed):
    """Bidirectional features: each coefficient is negative half of the time."""

    signed: ClassVar[bool] = True

    def _codes(self, n_tokens: int, generator: torch.Generator) -> Tensor:
        codes = super()._codes(n_tokens, generator)
        return codes * (2 * torch.randint(2, codes.shape, generator=generator) - 1)


@dataclass(frozen=True, kw_only=True)
class Hierarchy(World):
    """Two levels: a child occurs only with its parent, and an SAE is tempted to write both as one latent.

    Twenty orthonormal features in R^20. Exactly one of eleven parents is active: three, with probability
    0.2 each, have three children, of which at most one is active, each with probability 0.2 given the
    parent; the other eight, with 0.05 each, have none. L0 is 1.36. Magnitudes of parents are
    N(1.5, 0.25^2), of children N(`child_magnitude`, 0.25^2), cut at 0.

    Source: Costa et al. 2025 (arXiv 2506.03093), the synthetic benchmark without correlated directions.
    """

    child_magnitude: float = 1.0

    D_MODEL: ClassVar[int] = 20
    PARENTS: ClassVar[int] = 11
    FAMILIES: ClassVar[int] = 3
    CHILDREN: ClassVar[int] = 3

    @cached_property
    def features(self) -> Tensor:
        directions = torch.randn(self.D_MODEL, self.D_MODEL, generator=stream(self.seed, "features"))
        return torch.linalg.qr(directions)[0]

    @cached_property
    def parents(self) -> Tensor:
        """`[20]` int64: each feature's parent, -1 for none; parents with children come first, children last."""
        children = torch.arange(self.FAMILIES).repeat_interleave(self.CHILDREN)
        return torch.cat([torch.full((self.PARENTS,), -1), children])

    @cached_property
    def frequencies(self) -> Tensor:
        return torch.tensor([0.2] * 3 + [0.05] * 8 + [0.04] * 9, dtype=torch.float64)

    def sample(self, n_tokens: int, generator: torch.Generator) -> Sample:
        parent = torch.multinomial(self.frequencies[: self.PARENTS], n_tokens, replacement=True, generator=generator)
        # 0, 1, 2: that child; 3 and 4, with probability 0.4 in all: none.
        child = torch.randint(5, (n_tokens,), generator=generator)
        born = ((parent < self.FAMILIES) & (child < self.CHILDREN)).nonzero().squeeze(1)
        codes = torch.zeros(n_tokens, len(self.features))
        codes[torch.arange(n_tokens), parent] = _magnitudes(n_tokens, MAGNITUDE, generator)
        codes[born, self.PARENTS + self.CHILDREN * parent[born] + child[born]] = _magnitudes(
            len(born), self.child_magnitude, generator
        )
        return Sample(codes @ self.features, codes)

    def own_metrics(self, sample: Sample, learned: Tensor, codes: Tensor, recon: Tensor) -> dict[str, float]:
        return {"absorption": recovery.absorption(learned, codes, self.features, sample.codes, self.parents)}


@dataclass(frozen=True, kw_only=True)
class Readout(Superposed):
    """Superposed features, a few of which a downstream loss reads through one direction v.

    The last `n_readout` features have a cosine of `alignment` with v, all others are orthogonal to it. The
    downstream model predicts a coin, `p(heads) = sigmoid(gain <v, x> - prior)`; its loss is the cross-entropy
    of a coin thrown with these odds. Without a readout feature it is nearly sure of tails, so that
    gradients are large where, and only where, what is read matters.

    Attributes:
        n_readout: features that are read.
        alignment: their cosine with v.
        gain: of the logit.
        prior: log-odds of tails where nothing is read.
    """

    n_features: int = 128
    n_readout: int = 8
    alignment: float = 0.7
    gain: float = 4.0
    prior: float = 4.0

    @cached_property
    def direction(self) -> Tensor:
        """`[d]`: v, of norm 1."""
        return recovery.random_dictionary(1, self.d_model, stream(self.seed, "readout"))[0]

    @cached_property
    def features(self) -> Tensor:
        free = recovery.random_dictionary(self.n_features, self.d_model, stream(self.seed, "features"))
        blind = normalize(free - (free @ self.direction)[:, None] * self.direction)
        read = self.alignment * self.direction + math.sqrt(1 - self.alignment**2) * blind[-self.n_readout :]
        return torch.cat([blind[: -self.n_readout], read])

    def logits(self, x: Tensor) -> Tensor:
        """`[tok, d]` -> `[tok]`."""
        return self.gain * (x @ self.direction.to(x.dtype)) - self.prior

    def sample(self, n_tokens: int, generator: torch.Generator) -> Sample:
        plain = super().sample(n_tokens, generator)
        odds = torch.sigmoid(self.logits(plain.x))
        heads = torch.rand(n_tokens, generator=generator) < odds
        # d/dx of the cross-entropy -log p(thrown): (p - heads) times d logit / dx.
        slope = self.gain * (odds - heads.to(odds.dtype))
        return Sample(plain.x, plain.codes, slope[:, None] * self.direction)

    def downstream_error(self, x: Tensor, recon: Tensor) -> float:
        """Mean KL divergence, in nats, of the coin predicted from `recon` from that predicted from `x`:
        how much the downstream loss rises in expectation."""
        clean, spliced = self.logits(x.double()), self.logits(recon.double())
        odds = torch.sigmoid(clean)
        rise = binary_cross_entropy_with_logits(spliced, odds) - binary_cross_entropy_with_logits(clean, odds)
        return rise.item()

    def own_metrics(self, sample: Sample, learned: Tensor, codes: Tensor, recon: Tensor) -> dict[str, float]:
        return {"downstream_nats": self.downstream_error(sample.x, recon)}


def _magnitudes(n: int, mean: float, generator: torch.Generator) -> Tensor:
    """`[n]`, never negative."""
    return (mean + SPREAD * torch.randn(n, generator=generator)).clamp_min(0.0)
