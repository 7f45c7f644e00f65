"""One SAE in training: its weights, objective, optimiser and dead-latent tracker."""

from __future__ import annotations

import torch
from torch import Tensor

from saelab.activations.loader import Batch
from saelab.objectives import Objective, Pass
from saelab.sae import Blueprint
from saelab.sae.coders import Precision
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
        self.name = name
        self.sae = blueprint.sae.to(device)
        self.sae.coder.set_precision(precision)
        self.unit_norm = blueprint.unit_norm_decoder
        self.spec = spec
        self.objective = Objective(blueprint.losses)
        self.optimiser = optimiser.adam(self.sae, spec)
        self.tracker = DeadTracker(self.sae.n_latents, spec.dead_after_tokens, device)
        self.all_finite = torch.ones((), dtype=torch.bool, device=device)

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Learn from one batch in training units; returns 0-dimensional metrics, not yet waited for."""
        sae = self.sae
        code = sae.encode(batch.input)
        recon = sae.decode(code)
        dead = self.tracker.dead
        seen = Pass(sae, batch.input, batch.target, code, recon, dead)
        total, losses = self.objective(seen, number / max(self.spec.steps, 1))
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = optimiser.step(sae, self.optimiser, self.spec, number, unit_norm=self.unit_norm)
        with torch.no_grad():
            self.all_finite &= torch.isfinite(total) if norm is None else torch.isfinite(total) & torch.isfinite(norm)
            firing = code.firing_counts()
            self.tracker.update(firing, batch.input.shape[0])
            metrics = {f"losses/{name}": value for name, value in losses.items()}
            metrics["losses/total"] = total.detach()
            metrics["metrics/l0"] = firing.sum() / max(code.n_tokens, 1)
            metrics["metrics/dead_latents"] = dead.sum()
            if norm is not None:
                metrics["metrics/grad_norm"] = norm
        return metrics

    def check(self) -> bool:
        """Whether every loss, gradient norm and weight so far is finite; waits for the device."""
        weights = torch.stack([torch.isfinite(p).all() for p in self.sae.parameters()])
        return bool(self.all_finite & weights.all())

    # -- checkpoints ------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        out = {f"sae.{name}": value for name, value in self.sae.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                out[f"adam.{name}.{key}"] = value
        out["dead.tokens_since"] = self.tracker.tokens_since
        return out

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave.

        Raises:
            KeyError: something is missing. ValueError: something has another shape.
        """
        with torch.no_grad():
            for name, value in self.sae.state_dict().items():
                _copy(value, tensors[f"sae.{name}"], name)
        for name, parameter in self.sae.named_parameters():
            state = {key: tensors[f"adam.{name}.{key}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
            state["step"] = tensors[f"adam.{name}.step"].to(parameter.device)
            self.optimiser.state[parameter] = state
        _copy(self.tracker.tokens_since, tensors["dead.tokens_since"], "dead.tokens_since")


def _copy(into: Tensor, value: Tensor, name: str) -> None:
    if into.shape != value.shape:
        raise ValueError(f"{name} has shape {list(value.shape)}, expected {list(into.shape)}")
    into.copy_(value)
