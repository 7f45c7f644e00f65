"""One SAE in training: its weights, objective, optimiser and dead-latent tracker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from saelab.activations.loader import Batch
from saelab.machine import keep_freed_memory
from saelab.metrics import explained_variance
from saelab.objectives import Objective, Pass
from saelab.sae import Blueprint, SparseCode
from saelab.sae.coders import Precision
from saelab.sae.rules import Step
from saelab.training import optimiser
from saelab.training.spec import TrainSpec


class DeadTracker:
    """Tokens since each latent was last active."""

    def __init__(self, n_latents: int, dead_after_tokens: int, device: torch.device):
        self.tokens_since = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.dead_after_tokens = dead_after_tokens

    def update(self, firing_counts: Tensor, n_tokens: int) -> None:
        self.tokens_since += n_tokens
        self.tokens_since[firing_counts > 0] = 0

    @property
    def dead(self) -> Tensor:
        """`[lat]` bool."""
        return self.tokens_since > self.dead_after_tokens


OUTLIER_NORM = 10.0
"""An activation this many times longer than the batch's median is an outlier."""


def outlier_entries(x: Tensor, code: SparseCode) -> Tensor:
    """The active entries of a batch that outlying tokens took.

    `[tok, d]` and its code. Where a batch shares a budget, a few long activations can eat it (the mask's
    `max_norm_ratio` keeps them out).
    """
    norms = x.norm(dim=1)
    if len(norms) == 0:
        return torch.zeros((), dtype=torch.int64, device=x.device)
    return code.l0()[norms > OUTLIER_NORM * norms.median()].sum()


@contextmanager
def own_draws(seed: int, number: int, device: torch.device) -> Iterator[None]:
    """Inside, what torch draws follows from the seed and the step's number alone; afterwards it goes on as before."""
    on_gpu = [torch.cuda.default_generators[device.index]] if device.type == "cuda" else []
    generators = [torch.default_generator, *on_gpu]
    before = [generator.get_state() for generator in generators]
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
    try:
        for generator in generators:
            generator.manual_seed(drawn)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


class Member:
    """One of the N SAEs that a trainer steps on the same batches.

    Args:
        name: of its run.
        blueprint: from `saelab.sae.build`.
        spec: how it is trained.
        precision: of selection, resolved ("auto" has no place here).
        device: where it lives.
    """

    def __init__(self, name: str, blueprint: Blueprint, spec: TrainSpec, *, precision: Precision, device: torch.device):
        if device.type == "cpu":
            keep_freed_memory()
        self.name = name
        self.sae = blueprint.sae.to(device)
        self.sae.coder.set_precision(precision)
        self.unit_norm = blueprint.unit_norm_decoder
        self.spec = spec
        self.objective = Objective(blueprint.losses, self.sae.coder).to(device)
        self.optimiser = optimiser.adam(self.sae, spec)
        self.tracker = DeadTracker(self.sae.n_latents, spec.dead_after_tokens, device)
        self.entries = torch.zeros((), dtype=torch.int64, device=device)
        self.outlier_entries = torch.zeros_like(self.entries)
        self.all_finite = torch.ones((), dtype=torch.bool, device=device)

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Learn from one batch in training units; returns 0-dimensional metrics, not yet waited for.

        What the SAE draws is its own: neither other members nor an interruption change it.
        """
        with own_draws(self.spec.seed, number, self.entries.device):
            return self._step(batch, number)

    def _step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        sae = self.sae
        seen = sae.see(batch.input, batch.side)
        encoding = sae.coder.encode(seen)
        code, dead = encoding.code, self.tracker.dead
        recon, progress = sae.reconstruct(batch.input, code), number / max(self.spec.steps, 1)
        total, losses = self.objective(Pass(sae, seen, batch.target, encoding, recon, dead, progress))
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = optimiser.step(sae, self.optimiser, self.spec, number, unit_norm=self.unit_norm)
        with torch.no_grad():
            self.all_finite &= torch.isfinite(total) if norm is None else torch.isfinite(total) & torch.isfinite(norm)
            sae.coder.adapt(Step((number + 1) / max(self.spec.steps, 1), code.detach()), sae.W_dec)
            firing = code.firing_counts()
            self.tracker.update(firing, batch.input.shape[0])
            metrics = {f"losses/{name}": value for name, value in losses.items()}
            metrics["losses/total"] = total.detach()
            metrics["metrics/l0"] = firing.sum() / max(code.n_tokens, 1)
            metrics["metrics/explained_variance"] = explained_variance(batch.target, recon)
            metrics["metrics/dead_latents"] = dead.sum()
            if norm is not None:
                metrics["metrics/grad_norm"] = norm
            if not sae.coder.per_token:
                taken = outlier_entries(batch.input, code)
                self.outlier_entries += taken
                metrics["metrics/outlier_share"] = taken / firing.sum().clamp_min(1)
            self.entries += firing.sum()
        return metrics

    @property
    def outlier_share(self) -> float:
        """The share of all active entries so far that outlying tokens took, where tokens share a budget."""
        return float(self.outlier_entries / self.entries.clamp_min(1))

    def check(self) -> bool:
        """Whether every loss, gradient norm and weight so far is finite; waits for the device."""
        weights = torch.stack([torch.isfinite(value).all() for value in self.sae.state_dict().values()])
        return bool(self.all_finite & weights.all())

    # -- checkpoints ------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        out = {f"sae.{name}": value for name, value in self.sae.state_dict().items()}
        out |= {f"objective.{name}": value for name, value in self.objective.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                out[f"adam.{name}.{key}"] = value
        out["dead.tokens_since"] = self.tracker.tokens_since
        out |= {"entries": self.entries, "outlier_entries": self.outlier_entries}
        return out

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave.

        Raises:
            KeyError: something is missing. ValueError: something has another shape.
        """
        with torch.no_grad():
            for part, state in (("sae", self.sae.state_dict()), ("objective", self.objective.state_dict())):
                for name, value in state.items():
                    _copy(value, tensors[f"{part}.{name}"], name)
        for name, parameter in self.sae.named_parameters():
            if f"adam.{name}.step" not in tensors:  # no loss has reached it yet
                continue
            state = {key: tensors[f"adam.{name}.{key}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
            state["step"] = tensors[f"adam.{name}.step"].to(parameter.device)
            self.optimiser.state[parameter] = state
        _copy(self.tracker.tokens_since, tensors["dead.tokens_since"], "dead.tokens_since")
        for name, count in (("entries", self.entries), ("outlier_entries", self.outlier_entries)):
            _copy(count, tensors[name], name)


def _copy(into: Tensor, value: Tensor, name: str) -> None:
    if into.shape != value.shape:
        raise ValueError(f"{name} has shape {list(value.shape)}, expected {list(into.shape)}")
    into.copy_(value)
