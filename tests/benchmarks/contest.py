"""What every contestant is given, and what it has to be able to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saelab.activations.loader import Batch
from saelab.training import TrainSpec, optimiser


@dataclass(frozen=True)
class Recipe:
    """Sizes and hyperparameters that all sides share: Adam, and a linear rise and fall of its rate.

    Attributes:
        clip: largest gradient norm for saelab, in units of its own loss (the peers clip at 1 in theirs, or never).
    """

    n_latents: int
    k: int = 32
    batch_tokens: int = 2048
    d_model: int = 576
    steps: int = 100_000
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 100
    decay_frac: float = 0.2
    dead_after_steps: int = 1000
    clip: float | None = 1.0

    @property
    def spec(self) -> TrainSpec:
        return TrainSpec(
            tokens=self.steps * self.batch_tokens,
            batch_tokens=self.batch_tokens,
            lr=self.lr,
            betas=self.betas,
            warmup_steps=self.warmup_steps,
            decay_frac=self.decay_frac,
            grad_clip=self.clip,
            dead_after_tokens=self.dead_after_steps * self.batch_tokens,
        )

    def rate(self, step: int) -> float:
        """The learning rate's share of `lr` at a step: saelab's schedule, for a peer's `LambdaLR`."""
        return optimiser.learning_rate(self.spec, step) / self.lr


@dataclass(frozen=True, eq=False)
class Start:
    """The weights that all sides begin with.

    Attributes:
        rows: `[lat, d]`, the encoder and the decoder alike.
        bias: of every latent's encoder.
    """

    rows: Tensor
    bias: float = 0.0


def random_start(recipe: Recipe, seed: int, *, norm: float = 1.0) -> Start:
    """Random directions of this norm, as saelab draws them."""
    rows = torch.randn(recipe.n_latents, recipe.d_model, generator=torch.Generator().manual_seed(seed))
    return Start(rows * (norm / rows.norm(dim=1, keepdim=True)))


class Runner(Protocol):
    """What can be raced."""

    def step(self, batch: Batch) -> None: ...


Make = Callable[[Recipe, Start], Runner]


class Contestant(Protocol):
    """A training run, one step at a time."""

    def step(self, batch: Batch) -> None:
        """Everything that its own trainer does with a batch."""
        ...

    def finish(self, x: Tensor) -> None:
        """Training is over; `[tok, d]` training activations, for those that calibrate thresholds."""
        ...

    def deployed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[tok, d]` -> reconstructions `[tok, d]` and codes `[tok, lat]`, dense, in the form that a user loads."""
        ...
