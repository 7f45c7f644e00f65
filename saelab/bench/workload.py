"""What is measured: a size of work, and a variant put to it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from saelab.activations.loader import Batch
from saelab.errors import SettingError, check_least
from saelab.sae import SAE, VARIANTS, build
from saelab.sae.coders import Precision
from saelab.training import Member, TrainSpec

_SPARSEN_TOKENS = 512
_HALVINGS = 20
_DATA = 10**6
"""Seeds of batches lie here, far from the one that draws weights: the same numbers would fit them exactly."""


@dataclass(frozen=True)
class Workload:
    """Sizes of one measurement.

    Attributes:
        d_model, n_latents, k, batch_tokens: as in training.
        l0: active latents per token for variants that set no k (None: k).
    """

    d_model: int = 576
    n_latents: int = 16_384
    k: int = 32
    batch_tokens: int = 2048
    l0: float | None = None

    def __post_init__(self) -> None:
        check_least(self, 1, "d_model", "n_latents", "k")
        check_least(self, 2, "batch_tokens")
        if self.k > self.n_latents:
            raise SettingError("k", f"k = {self.k} is more than n_latents = {self.n_latents}", fix="lower k")
        if self.l0 is not None and not 0 < self.l0 <= self.n_latents:
            raise SettingError("l0", f"lies above 0 and at most at n_latents = {self.n_latents}, found {self.l0}")

    @property
    def active(self) -> float:
        """Active latents per token where a variant has no k."""
        return self.k if self.l0 is None else self.l0


@dataclass(frozen=True)
class Middle:
    """The middle of a long training, where penalties have risen and phases have changed, at a learning rate that
    leaves weights, and so L0, where they are.

    Attributes:
        first: number of the first step.
    """

    steps: int = 10**6
    lr: float = 1e-9

    @property
    def first(self) -> int:
        return self.steps // 2

    def spec(self, batch_tokens: int) -> TrainSpec:
        return TrainSpec(tokens=self.steps * batch_tokens, batch_tokens=batch_tokens, lr=self.lr)


MIDDLE = Middle()


@dataclass(frozen=True)
class Case:
    """A variant put to some work.

    Attributes:
        kind: its name in `saelab.sae.VARIANTS`.
        precision: of selection, resolved.
    """

    kind: str
    work: Workload
    precision: Precision
    device: torch.device

    @property
    def settings(self) -> dict[str, Any]:
        """The work's sizes where the variant has settings of these names; the rest by default."""
        work = self.work
        offered = {"n_latents": work.n_latents, "k": work.k, "l0": work.active, "target_l0": work.active}
        known = inspect.signature(VARIANTS[self.kind]).parameters
        return {key: value for key, value in offered.items() if key in known}

    def member(self, spec: TrainSpec) -> Member:
        """Ready for training, the same at each call; sparse from the start, see `sparsen`.

        Raises:
            SaelabError: the variant cannot work at these sizes.
        """
        with seeded(0, self.device):
            blueprint = build(self.kind, self.work.d_model, self.settings)
        blueprint.sae.coder.check_batch(spec.batch_tokens, self.work.n_latents)
        member = Member(self.kind, blueprint, spec, precision=self.precision, device=self.device)
        if not {"k", "l0"} & self.settings.keys():
            sparsen(member.sae, self.batch(member.sae, -1, min(_SPARSEN_TOKENS, spec.batch_tokens)), self.work.active)
        return member

    def batch(self, sae: SAE, number: int, n_tokens: int | None = None) -> Batch:
        """Batch `number`: normal noise of mean norm about sqrt(d_model), and at its side what the SAE requires."""
        generator = torch.Generator().manual_seed(_DATA + number)
        shape = self.work.batch_tokens if n_tokens is None else n_tokens, self.work.d_model
        x = torch.randn(shape, generator=generator).to(self.device)
        requires = sorted(sae.coder.requires)
        return Batch(x, x, {name: torch.randn(shape, generator=generator).to(self.device) for name in requires})


@torch.no_grad()
def sparsen(sae: SAE, batch: Batch, l0: float) -> None:
    """Lower the encoder's biases, all by as much, until no more than `l0` latents are active per token.

    A threshold variant begins dense and takes thousands of steps to become sparse, which is where it spends its
    training. Biases are the coder's parameters named `b_...`; where there are none, nothing changes.
    """
    biases = [value for name, value in sae.coder.named_parameters() if name.startswith("b_")]
    low, high = 0.0, math.sqrt(sae.identity.d_in)  # the norm of an input: no unit row gives more
    if not biases or active_latents(sae, batch) <= l0:
        return
    starts = [bias.clone() for bias in biases]

    def lower(amount: float) -> None:
        for bias, start in zip(biases, starts, strict=True):
            bias.copy_(start - amount)

    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        lower(middle)
        low, high = (middle, high) if active_latents(sae, batch) > l0 else (low, middle)
    lower(high)


def active_latents(sae: SAE, batch: Batch) -> float:
    """Active latents per token."""
    return float(sae.encode(batch.input, batch.side).active.sum()) / len(batch.input)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of the CPU and of `device` from `seed` on; afterwards they go on as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
