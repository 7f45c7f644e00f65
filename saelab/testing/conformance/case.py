"""What the conformance checks run on: one variant in tiny, the activations it sees, and what one step makes of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from saelab.activations.loader import Batch
from saelab.objectives import Objective, Pass
from saelab.sae import SAE, Blueprint, Scaling, build
from saelab.sae.rules import Step
from saelab.training import Member, TrainSpec

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A variant with settings small enough for a test.

    Attributes:
        kind: its name in `saelab.sae.VARIANTS`.
        settings: its arguments; choose them so that every schedule (a warm-up, a change of phase, an update
            every so many tokens) begins and ends within `steps`.
        d_model: width of the activations.
        d_out: width of another target: a transcoder. None: the SAE reconstructs its input.
        skip: give the transcoder a skip connection.
        batch_tokens: tokens of a training step.
        steps: length of a training.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=lambda: {"n_latents": 64})
    d_model: int = 16
    d_out: int | None = None
    skip: bool = False
    batch_tokens: int = 64
    steps: int = 60

    def blueprint(self, seed: int = 0) -> Blueprint:
        """The variant with fresh weights; the global random state stays as it is."""
        with seeded(seed):
            return build(self.kind, self.d_model, self.settings, self.d_out, skip=self.skip)

    def member(self, *, seed: int = 0, steps: int | None = None) -> Member:
        """Ready for a training of so many steps."""
        steps = self.steps if steps is None else steps
        spec = TrainSpec(
            tokens=steps * self.batch_tokens,
            batch_tokens=self.batch_tokens,
            lr=1e-2,
            warmup_steps=steps // 10,
            dead_after_tokens=4 * self.batch_tokens,
        )
        return Member(self.kind, self.blueprint(seed), spec, precision="exact", device=CPU)

    def trained(self, steps: int = 12) -> Member:
        """At the end of a training of so many steps: every bias and buffer has left where it began."""
        member = self.member(steps=steps)
        with seeded(0):
            for number in range(steps):
                member.step(self.batch(number), number)
        return member

    def batch(self, number: int, n_tokens: int | None = None) -> Batch:
        """Training batch `number`, with noise for whatever the variant wants at the side."""
        x = activations(self.d_model, self.batch_tokens if n_tokens is None else n_tokens, seed=number)
        return self.beside(x, seed=number)

    def beside(self, x: Tensor, seed: int = 0) -> Batch:
        """`[tok, d_model]` as a batch of its own."""
        generator = torch.Generator().manual_seed(seed)
        target = x if self.d_out is None else bent(x, self.d_out)
        return Batch(x, target, {name: torch.randn(target.shape, generator=generator).to(x) for name in self.requires})

    @cached_property
    def requires(self) -> list[str]:
        """What the variant wants beside the activations."""
        with torch.device("meta"):
            return sorted(self.blueprint().sae.coder.requires)

    @property
    def calibration(self) -> Tensor:
        """`[tok, d_model]`: many batches together."""
        return self.batch(2**31, 64 * self.batch_tokens).input

    def calibrate(self, sae: SAE) -> None:
        """Set its thresholds as a trainer does: where selection depends on the batch."""
        if not sae.coder.per_token:
            sae.calibrate(self.calibration)

    def scaling(self, seed: int, *, of_target: bool = False) -> Scaling:
        """Some scaling, in float64, of the input or of a transcoder's target."""
        generator = torch.Generator().manual_seed(seed)
        width = self.d_out if of_target and self.d_out is not None else self.d_model
        mean = 3 * torch.randn(width, generator=generator, dtype=torch.float64)
        return Scaling(mean, 0.3 + float(torch.rand((), generator=generator)))


def activations(d_model: int, n_tokens: int, *, seed: int) -> Tensor:
    """`[tok, d_model]` float32 of mean norm about sqrt(d_model): sums of about 3 of `2 d_model` fixed directions, and
    a little noise."""
    n_features = 2 * d_model
    world = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(n_features, d_model, generator=world), dim=1)
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n_tokens, n_features, generator=generator) < 3 / n_features
    strength = 0.5 + torch.rand(n_tokens, n_features, generator=generator)
    noise = 0.05 * torch.randn(n_tokens, d_model, generator=generator)
    return ((active * strength) @ directions + noise) * (d_model / 3) ** 0.5


def bent(x: Tensor, d_out: int) -> Tensor:
    """`[tok, d]` -> `[tok, d_out]` of mean square norm about d_out: a fixed linear map and a nonlinear one, added."""
    world = torch.Generator().manual_seed(1)
    first, second = (torch.randn(x.shape[1], d_out, generator=world).to(x) / x.shape[1] ** 0.5 for _ in range(2))
    return (x @ first + (x @ second).relu()) / 1.5**0.5


def one_step(sae: SAE, objective: Objective, batch: Batch, *, progress: float = 0.5) -> dict[str, Tensor]:
    """All that a training step computes, by name: loss, reconstruction, code, gradients, buffers left behind.

    A third of the latents count as dead. Weights stay as they are.
    """
    dead = torch.arange(sae.n_latents) % 3 == 0
    with seeded(7):
        seen = sae.see(batch.input, batch.side)
        encoding = sae.coder.encode(seen)
        recon = sae.reconstruct(batch.input, encoding.code)
        total, _ = objective(Pass(sae, seen, batch.target, encoding, recon, dead, progress))
    sae.zero_grad(set_to_none=True)
    total.backward()
    sae.coder.adapt(Step(progress, encoding.code.detach()), sae.W_dec)
    out = {"the loss": total, "the reconstruction": recon, "the code": encoding.code.to_dense()}
    for name, parameter in sae.named_parameters():
        out[f"the gradient of {name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    out |= {f"the buffer {name}": value for name, value in (*sae.named_buffers(), *objective.named_buffers())}
    return {name: value.detach().clone() for name, value in out.items()}


def in_float64(member: Member) -> tuple[SAE, Objective]:
    """A copy of its SAE and objective."""
    return copy.deepcopy(member.sae).double(), copy.deepcopy(member.objective).double()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU's random numbers from `seed` on; afterwards they go on as before."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
