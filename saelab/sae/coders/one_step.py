"""*OneStep*: an affine encoder, then a selection rule."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from saelab.kernels import Support, sampled_dot
from saelab.sae.affine import PreActivations, affine
from saelab.sae.code import Encoding, Seen, SparseCode
from saelab.sae.coders.base import RuleCoder
from saelab.sae.rules import SelectionRule


class OneStep(RuleCoder):
    """`code = rule(W_enc x + b_enc)`: one proximal step from zero (arXiv 2510.00404).

    The full `[tok, lat]` pre-activations are computed without autograd and only looked at by the rule.
    Values at the support, and gradients, go through the sparse primitives: the encoder's backward
    costs `tok * k * d`, not `tok * lat * d`.

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
        support, known = select(rule, seen, self.W_enc, self.b_enc, screened=self.precision == "screened")
        values = sampled_dot(seen.x, self.W_enc, support, bias=self.b_enc, known=known)
        code = SparseCode(rule.activate(values, support), support)
        return Encoding(code, rule.channels(values, support))

    def pre_activations(self, seen: Seen, latents: Tensor) -> Tensor:
        return torch.addmm(self.b_enc[latents], seen.x, self.W_enc[latents].T)

    def calibrate(self, seen: Seen) -> None:
        self.rule.calibrate(PreActivations(seen.x, self.W_enc, self.b_enc))

    def inference(self, W_dec: Tensor) -> Self:
        self.rule = self.rule.inference()
        self.precision = "exact"
        return self

    def fold(self, mean: Tensor, factor: float) -> None:
        self.b_enc.div_(factor)
        if not self.centred:
            self.b_enc.sub_(self.W_enc @ mean)
        self.rule.fold(factor)


@torch.no_grad()
def select(
    rule: SelectionRule, seen: Seen, weight: Tensor, bias: Tensor, *, screened: bool
) -> tuple[Support, Tensor | None]:
    """The support, and the pre-activations there (`[entries]`) where they are known already."""
    if not (screened and rule.screens):
        pre = affine(seen.x, weight, bias)
        support = rule.candidates(pre, seen)
        entries = slice(support.nnz)
        known = pre.new_zeros(support.latents.numel())
        known[entries] = pre[support.rows, support.latents[entries].long()]
        return support, known
    low = torch.bfloat16
    pre = affine(seen.x.to(low), weight.to(low), bias.to(low))
    candidates = rule.candidates(pre, seen, screened=True)
    values = sampled_dot(seen.x, weight, candidates, bias=bias)
    return rule.narrow(values, candidates, seen), None
