"""Terms that compare a reconstruction with its target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saelab.kernels import gather
from saelab.objectives.terms.base import TERMS, Pass, Term, normalised, variance
from saelab.sae import SparseCode
from saelab.sae.rules import SelectionRule


@TERMS.register("normalised_mse")
class NormalisedMSE(Term):
    """`sum ||x - recon||^2 / sum ||x - mean(x)||^2` over the batch: its fraction of variance unexplained.

    Source: Gao et al. 2024 (arXiv 2406.04093); the mean is the batch's.
    """

    def forward(self, p: Pass) -> Tensor:
        return normalised(p.target, p.recon)


@TERMS.register("sum_squared_error")
class SumSquaredError(Term):
    """`mean over tokens of ||x - recon||^2`. Source: Anthropic, April 2024 update."""

    def forward(self, p: Pass) -> Tensor:
        return (p.target - p.recon).square().sum() / p.n_tokens


@TERMS.register("prefix_mse")
class PrefixMSE(Term):
    """The mean, over nested prefixes of the dictionary, of the normalised error of each alone.

    Prefix j reconstructs with the entries of the latents below `prefixes[j]`; the last is the whole code.
    Each is the one before plus its own entries, so that all together cost two decodings. A skip connection is
    part of every one.

    Source: Matryoshka SAEs (arXiv 2503.17547), with equal weights; divided by their number, so that the
    weight of other terms does not depend on it. The official code also counts the empty prefix, the
    error of `b_dec` alone, which no latent can change.
    """

    def __init__(self, prefixes: Sequence[int]):
        super().__init__()
        self.prefixes = tuple(prefixes)

    def forward(self, p: Pass) -> Tensor:
        errors: list[Tensor] = []
        recon, start = p.sae.decoder.affine(p.seen.x), 0
        for stop in self.prefixes[:-1]:
            part = p.code.between(start, stop)
            recon, start = recon + gather(part.values, part.support, p.sae.W_dec), stop
            errors.append((p.target - recon).square().sum())
        errors.append((p.target - p.recon).square().sum())
        return torch.stack(errors).mean() / variance(p.target)


@TERMS.register("other_rule_mse")
class OtherRuleMSE(Term):
    """The normalised error of the same SAE with another selection rule: Multi-TopK, where that is a larger k.

    Source: Gao et al. 2024 (arXiv 2406.04093).
    """

    def __init__(self, rule: SelectionRule):
        super().__init__()
        self.rule = rule

    def forward(self, p: Pass) -> Tensor:
        return normalised(p.target, p.sae.reconstruct(p.seen.x, p.sae.coder.encode_by(self.rule, p.seen).code))


@TERMS.register("gate_reconstruction")
class GateReconstruction(Term):
    """`mean over tokens of ||x - recon(relu(gate))||^2`, with the decoder held fixed: teaches the gate.

    Source: Rajamanoharan et al. 2024 (arXiv 2404.16014).
    """

    requires = frozenset({"gate"})

    def forward(self, p: Pass) -> Tensor:
        gate = SparseCode(p.channels["gate"], p.code.support)
        recon = gather(gate.values, gate.support, p.sae.W_dec.detach()) + p.sae.decoder.affine(p.seen.x).detach()
        return (p.target - recon).square().sum() / p.n_tokens


@TERMS.register("afa")
class FeatureActivation(Term):
    """`mean over tokens of (||f|| - ||x||)^2`, f the code weighted by the norms of the decoder's rows and x the
    centred input: codes are to be as long as what they stand for.

    Source: top-AFA (arXiv 2503.24277). Deviation: the official code compares with the raw input
    here and with the centred one when it selects; this does the latter in both places.
    """

    def forward(self, p: Pass) -> Tensor:
        norms = p.sae.W_dec.norm(dim=1, keepdim=True)
        squared = gather(p.code.values.square(), p.code.support, norms.square()).squeeze(1)
        safe = torch.where(squared > 0, squared, 1.0)
        length = torch.where(squared > 0, safe.sqrt(), 0.0)
        return (length - p.seen.x.norm(dim=1)).square().sum() / p.n_tokens
