"""Terms that teach latents which would otherwise stay unused."""

from __future__ import annotations

import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.kernels import gather
from saelab.objectives.terms.base import TERMS, Pass, Term, variance
from saelab.sae.code import Seen
from saelab.sae.rules import SelectionRule
from saelab.sae.rules.quotas import fit_zipf


def unexplained(p: Pass, latents: Tensor, rule: SelectionRule) -> Tensor:
    """What the given latents leave of the residual, once `rule` has chosen among them.

    `||e - e_hat||^2 / ||e - mean(e)||^2` with `e = target - recon` detached and `e_hat` decoded without
    bias. 0 where no latent is given; one whose pre-activation the rule turns to 0 gets no gradient.
    """
    if latents.numel() == 0:
        return p.recon.new_zeros(())
    error = (p.target - p.recon).detach()
    pre = p.sae.coder.pre_activations(p.seen, latents)
    rows = p.sae.W_dec[latents]
    with torch.no_grad():
        support = rule.candidates(pre.detach(), Seen(p.seen.x, rows, p.seen.side))
    picked = pre[support.rows, support.latents[: support.nnz].long()]
    explained = gather(rule.activate(picked, support), support, rows)
    return (error - explained).square().sum() / variance(error)


@TERMS.register("auxk")
class AuxK(Term):
    """Dead latents learn to explain what the living ones leave over.

    Gradient reaches encoder and decoder rows of dead latents alone, and the bias that is subtracted from
    the input.

    Source: Gao et al. 2024 (arXiv 2406.04093).
    """

    def __init__(self, rule: SelectionRule):
        super().__init__()
        self.rule = rule

    def forward(self, p: Pass) -> Tensor:
        return unexplained(p, p.dead.nonzero().squeeze(1), self.rule)


@TERMS.register("aux_zipf")
class AuxZipf(Term):
    """AuxK for latents that fire less than their rank lets expect, not only for dead ones.

    A latent counts as underused where its running density is below `gamma` times the Zipf-Mandelbrot curve
    (fitted to all running densities every `REFIT_STEPS`) at its rank; dead latents are among them.

    Source: the aux_zipf_loss of arXiv 2411.02124 in idea; its formula was not available to us, and this one
    is ours.
    """

    RATE = 0.01
    REFIT_STEPS = 50

    density: Tensor
    expected: Tensor
    steps: Tensor

    def __init__(self, rule: SelectionRule, n_latents: int, k: float, gamma: float):
        super().__init__()
        if not 0 < gamma <= 1:
            raise SettingError("aux_gamma", f"0 < aux_gamma <= 1 does not hold for {gamma}")
        self.rule, self.gamma, self.k = rule, gamma, k
        self.register_buffer("density", torch.full((n_latents,), k / n_latents))
        self.register_buffer("expected", torch.full((n_latents,), k / n_latents))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, p: Pass) -> Tensor:
        if torch.is_grad_enabled():
            self._follow(p)
        underused = (self.density < self.gamma * self.expected) | p.dead
        return unexplained(p, underused.nonzero().squeeze(1), self.rule)

    @torch.no_grad()
    def _follow(self, p: Pass) -> None:
        self.density.lerp_(p.code.firing_counts().to(self.density) / p.n_tokens, self.RATE)
        self.steps += 1
        if int(self.steps) % self.REFIT_STEPS == 0:
            order = self.density.argsort(descending=True, stable=True)
            curve = fit_zipf(self.density).densities(len(order), float(self.k))
            self.expected[order] = curve.to(self.expected)


@TERMS.register("revive")
class Revive(Term):
    """`-mean over tokens and dead latents of <residual, d_i>`: turns dead rows towards what is left over. For
    coders without an encoder of their own, whose dead rows no other loss reaches.

    Source: the revival term of the Overcomplete library, used for MP-SAE (arXiv 2506.03093).
    """

    def forward(self, p: Pass) -> Tensor:
        latents = p.dead.nonzero().squeeze(1)
        if latents.numel() == 0:
            return p.recon.new_zeros(())
        residual = (p.target - p.recon).detach()
        return -(residual @ p.sae.W_dec[latents].T).sum() / (p.n_tokens * len(latents))
