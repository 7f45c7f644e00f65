"""*OneStep*: an affine encoder, then a selection rule."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from saelab import kernels
from saelab.kernels import Selected, sampled_dot
from saelab.kernels.products import Affine
from saelab.sae.affine import PreActivations
from saelab.sae.code import Encoding, Seen, SparseCode
from saelab.sae.coders.base import RuleCoder
from saelab.sae.rules import SelectionRule


class OneStep(RuleCoder):
    """`code = rule(W_enc x + b_enc)`: one proximal step from zero (arXiv 2510.00404).

    Pre-activations of all latents come in tiles, without autograd, and the rule keeps few of them. Gradients
    go through the sparse primitives: the encoder's backward costs `tok * k * d`, not `tok * lat * d`.

    Args:
        d_model: width of the input.
        n_latents: width of the code.
        rule: the selection rule.
        centred: whether the decoder's bias is subtracted from the input first.

    Attributes:
        W_enc: `[n_latents, d_model]`, a latent a row.
        b_enc: `[n_latents]`.
    """

    def __init__(self, d_model: int, n_latents: int, rule: SelectionRule, *, centred: bool):
        super().__init__(rule, n_latents, centred=centred)
        self.W_enc = nn.Parameter(torch.empty(n_latents, d_model))
        self.b_enc = nn.Parameter(torch.zeros(n_latents))

    def initialise(self, W_dec: Tensor) -> None:
        self.W_enc.copy_(W_dec)

    def encode(self, seen: Seen) -> Encoding:
        return self.encode_by(self.rule, seen)

    def encode_by(self, rule: SelectionRule, seen: Seen) -> Encoding:
        """The encoding that another rule makes of the same pre-activations."""
        found = select(rule, seen, self.W_enc, self.b_enc, screened=self.precision == "screened")
        x = seen.x if seen.centre is None else seen.x.detach()
        values = sampled_dot(x, self.W_enc, found.support, bias=self.b_enc, centre=seen.centre, known=found.values)
        code = SparseCode(rule.activate(values, found.support), found.support)
        return Encoding(code, rule.channels(values, found.support))

    def pre_activations(self, seen: Seen, latents: Tensor) -> Tensor:
        return torch.addmm(self.b_enc[latents], seen.x, self.W_enc[latents].T)

    def calibrate(self, seen: Seen) -> None:
        self.rule.calibrate(PreActivations(seen.x, self.W_enc, self.b_enc))

    def inference(self, W_dec: Tensor) -> Self:
        self.rule = self.rule.inference()
        self.precision = "exact"
        return self

    def rescale(self, factor: Tensor) -> None:
        self.W_enc.mul_(factor[:, None])
        self.b_enc.mul_(factor)
        self.rule.rescale(factor)

    def fold(self, mean: Tensor, factor: float) -> None:
        self.b_enc.div_(factor)
        if not self.centred:
            self.b_enc.sub_(self.W_enc @ mean)
        self.rule.fold(factor)


@torch.no_grad()
def select(rule: SelectionRule, seen: Seen, weight: Tensor, bias: Tensor, *, screened: bool) -> Selected:
    """The support that the rule picks, and the pre-activations there."""
    budget = rule.budget(seen, len(weight))
    if budget is not None:
        return kernels.select(seen.x, weight, bias, budget, screened=screened)
    pre = Affine(seen.x, weight, bias).tile(slice(0, len(seen.x)), slice(0, len(weight)))
    support = rule.candidates(pre, seen)
    values = pre.new_zeros(support.latents.numel())
    values[: support.nnz] = pre[support.rows, support.latents[: support.nnz].long()]
    return Selected(support, values)
