"""Loss terms: each a small object that turns one pass of an SAE over a batch into a scalar.

Sums over latents or model dimensions, means over tokens, unless a term says otherwise: coefficients
mean nothing without that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.kernels import gather
from saelab.registry import Registry
from saelab.sae import SAE, SparseCode
from saelab.sae.rules import SelectionRule


@dataclass(frozen=True, eq=False)
class Pass:
    """One SAE over one batch, in training units: what a loss term sees.

    Attributes:
        x: `[tok, d_in]` input; target: `[tok, d_out]` (the input itself for an autoencoder).
        code, recon: what the SAE made of it.
        dead: `[lat]` bool, latents that have not been active for a while.
    """

    sae: SAE
    x: Tensor
    target: Tensor
    code: SparseCode
    recon: Tensor
    dead: Tensor


Term = Callable[[Pass], Tensor]
TERMS: Registry[Callable[..., Term]] = Registry("loss term")


def _variance(target: Tensor) -> Tensor:
    """Summed squared deviation from the batch's mean, never 0."""
    deviation = target - target.mean(0, keepdim=True) if target.shape[0] else target
    return deviation.square().sum().clamp_min(torch.finfo(target.dtype).tiny)


@TERMS.register("normalised_mse")
class NormalisedMSE:
    """`sum ||x - recon||^2 / sum ||x - mean(x)||^2` over the batch: its fraction of variance unexplained.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 2; the mean is the batch's.
    """

    def __call__(self, p: Pass) -> Tensor:
        return (p.target - p.recon).square().sum() / _variance(p.target)


@TERMS.register("sum_squared_error")
class SumSquaredError:
    """`mean over tokens of ||x - recon||^2`. Source: Anthropic, April 2024 update."""

    def __call__(self, p: Pass) -> Tensor:
        return (p.target - p.recon).square().sum() / max(p.target.shape[0], 1)


@TERMS.register("l1")
class L1:
    """`mean over tokens of sum_i |z_i| ||d_i||`: invariant to the scale of decoder rows.

    Source: Anthropic, April 2024 update.
    """

    def __call__(self, p: Pass) -> Tensor:
        norms = p.sae.W_dec.norm(dim=1, keepdim=True)
        weighted = gather(p.code.values.abs(), p.code.support, norms)
        return weighted.sum() / max(p.code.n_tokens, 1)


@TERMS.register("auxk")
class AuxK:
    """Dead latents learn to explain what the living ones leave over.

    `||e - e_hat||^2 / ||e - mean(e)||^2` with `e = target - recon` detached and `e_hat` decoded (without
    bias) from the dead latents that `rule` keeps. Gradient reaches encoder and decoder rows of dead
    latents alone, and the bias that is subtracted from the input. 0 while none is dead; a latent whose
    pre-activation the rule turns to 0 gets none.

    Source: Gao et al. 2024 (arXiv 2406.04093), appendix A.2.
    """

    def __init__(self, rule: SelectionRule):
        self.rule = rule

    def __call__(self, p: Pass) -> Tensor:
        dead = p.dead.nonzero().squeeze(1)
        if dead.numel() == 0:
            return p.recon.new_zeros(())
        error = (p.target - p.recon).detach()
        pre = p.sae.coder.pre_activations(p.sae.centre(p.x), dead)
        support = self.rule.candidates(pre.detach(), screened=False)
        picked = pre[support.rows, support.latents[: support.nnz].long()]
        explained = gather(self.rule.activate(picked), support, p.sae.W_dec[dead])
        return (error - explained).square().sum() / _variance(error)
