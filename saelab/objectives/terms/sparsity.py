"""Terms that ask for sparse codes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.kernels import latent_sum, spread
from saelab.objectives.terms.base import TERMS, Pass, Term


def _weighted(p: Pass) -> Tensor:
    """`|z_i| ||d_i||` at the support, `[nnz]`."""
    norms = p.sae.W_dec.norm(dim=1)
    return (p.code.values.abs() * spread(norms, p.code.support))[: p.code.support.nnz]


@TERMS.register("l1")
class L1(Term):
    """`mean over tokens of sum_i |z_i| ||d_i||`: invariant to the scale of decoder rows.

    Source: Anthropic, April 2024 update.
    """

    def forward(self, p: Pass) -> Tensor:
        per_latent = latent_sum(p.code.values.abs(), p.code.support)
        return per_latent @ p.sae.W_dec.norm(dim=1) / p.n_tokens


@TERMS.register("gate_l1")
class GateL1(Term):
    """`mean over tokens of sum_i relu(gate_i)`. Source: Rajamanoharan et al. 2024 (arXiv 2404.16014)."""

    requires = frozenset({"gate"})

    def forward(self, p: Pass) -> Tensor:
        return p.channels["gate"][: p.code.support.nnz].sum() / p.n_tokens


@TERMS.register("annealed_lp")
class AnnealedLp(Term):
    """`mean over tokens of sum_i (|z_i| ||d_i||)^p`, with p falling from 1 to `p_end` in equal steps.

    From `start_frac` of training on, p falls at the beginning of each of `updates` equal periods, so that it is
    `p_end` in the last. At each change the term is rescaled by the ratio of its values at the old and the new p
    over the last batches, so that it does not jump. `z^p` is `(z + eps)^p - eps^p`: near 0 its slope stays finite.

    Source: p-annealing (Karvonen et al. 2024, arXiv 2408.00113), and its official code, whose
    queue of 10 batches this keeps. Deviations: eps, and the weighting by decoder norms.
    """

    EPS = 1e-3
    QUEUE = 10

    scale: Tensor
    update: Tensor
    recent: Tensor

    def __init__(self, p_end: float, start_frac: float, updates: int):
        super().__init__()
        if not 0 < p_end <= 1:
            raise SettingError("p_end", f"0 < p_end <= 1 does not hold for {p_end}")
        if not 0 <= start_frac < 1:
            raise SettingError("p_start_frac", f"a fraction of training below 1, found {start_frac}")
        if updates < 1:
            raise SettingError("p_updates", f"must be at least 1, found {updates}")
        self.p_end, self.start_frac, self.updates = p_end, start_frac, updates
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("update", torch.zeros(()))
        self.register_buffer("recent", torch.zeros(self.QUEUE, 2))

    def due(self, progress: float) -> int:
        """How often p is to have fallen by then."""
        if progress < self.start_frac:
            return 0
        return min(1 + int(self.updates * (progress - self.start_frac) / (1 - self.start_frac)), self.updates)

    def exponent(self, update: int) -> float:
        return 1 - (1 - self.p_end) * min(update, self.updates) / self.updates

    def forward(self, p: Pass) -> Tensor:
        update = int(self.update)
        if torch.is_grad_enabled() and self.due(p.progress) > update:
            old, new = self.recent.sum(0).tolist()
            self.scale *= old / new if new > 0 else 1.0
            self.recent.zero_()
            update += 1
            self.update += 1
        strength = _weighted(p)
        value = self._power(strength, self.exponent(update)) / p.n_tokens
        if torch.is_grad_enabled():
            coming = self._power(strength.detach(), self.exponent(update + 1)) / p.n_tokens
            self.recent = torch.cat([self.recent[1:], torch.stack([value.detach(), coming])[None].to(self.recent)])
        return self.scale * value

    def _power(self, strength: Tensor, exponent: float) -> Tensor:
        return ((strength + self.EPS) ** exponent - self.EPS**exponent).sum()


def _stepped(p: Pass) -> Tensor:
    """The mean L0, differentiable through the coder's step."""
    return p.channels["step"][: p.code.support.nnz].sum() / p.n_tokens


@TERMS.register("l0")
class L0(Term):
    """`mean over tokens of sum_i 1[u_i > theta_i]`, with the coder's derivative of the step.

    Source: Rajamanoharan et al. 2024 (arXiv 2407.14435).
    """

    requires = frozenset({"step"})

    def forward(self, p: Pass) -> Tensor:
        return _stepped(p)


@TERMS.register("l0_target")
class L0Target(Term):
    """`(mean L0 / l0 - 1)^2`. Source: Rajamanoharan et al. 2024 (arXiv 2407.14435)."""

    requires = frozenset({"step"})

    def __init__(self, l0: float):
        super().__init__()
        if l0 <= 0:
            raise SettingError("target_l0", f"must be positive, found {l0}")
        self.l0 = l0

    def forward(self, p: Pass) -> Tensor:
        return (_stepped(p) / self.l0 - 1).square()


@TERMS.register("tanh")
class Tanh(Term):
    """`mean over tokens of sum_i tanh(c z_i ||d_i||)`. Source: Anthropic, January 2025 update."""

    def __init__(self, c: float = 4.0):
        super().__init__()
        self.c = c

    def forward(self, p: Pass) -> Tensor:
        return torch.tanh(self.c * _weighted(p)).sum() / p.n_tokens


@TERMS.register("pre_act")
class PreAct(Term):
    """`mean over tokens of sum_i relu(theta_i - u_i) ||d_i||`, over all latents or the dead ones alone: lifts
    pre-activations that never reach their threshold.

    Source: Anthropic, January 2025 update (`on: all`); SAELens restricts it to dead latents (`on: dead`).
    """

    requires = frozenset({"threshold"})

    def __init__(self, on: Literal["dead", "all"] = "dead"):
        super().__init__()
        self.on = on

    def forward(self, p: Pass) -> Tensor:
        chosen = p.dead if self.on == "dead" else torch.ones_like(p.dead)
        latents = chosen.nonzero().squeeze(1)
        below = torch.relu(p.channels["threshold"][latents] - p.sae.coder.pre_activations(p.seen, latents))
        return (below * p.sae.W_dec[latents].norm(dim=1)).sum() / p.n_tokens


@TERMS.register("kl")
class KL(Term):
    """`mean over tokens of 1/2 sum_i (mean_i^2 + var_i - 1 - log var_i)`: from the code's distribution to N(0, 1),
    over all latents, kept or not.

    Source: variational SAEs (arXiv 2509.22994).
    """

    requires = frozenset({"mean", "log_var"})

    def forward(self, p: Pass) -> Tensor:
        log_var = p.channels["log_var"]
        return (p.channels["mean"].square() + log_var.exp() - 1 - log_var).sum() / (2 * p.n_tokens)
