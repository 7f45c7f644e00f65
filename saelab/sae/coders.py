"""Coders: from activations to a sparse code. *OneStep* is an affine encoder, then a selection rule."""

from __future__ import annotations

import threading
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from saelab.errors import SettingError
from saelab.kernels import Support, sampled_dot
from saelab.sae.code import SparseCode
from saelab.sae.rules import SelectionRule

Precision = Literal["exact", "screened"]


class OneStep(nn.Module):
    """`code = rule(W_enc x + b_enc)`: one proximal step from zero (arXiv 2510.00404, section 3).

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
        precision: "exact" selects in the dtype of the weights; "screened" computes all
            pre-activations in bfloat16, keeps the rule's margin of candidates and re-scores those
            exactly. Values and gradients are exact in both.
    """

    def __init__(self, d_model: int, n_latents: int, rule: SelectionRule, *, centred: bool):
        super().__init__()
        if not 1 <= n_latents < 2**31:  # latents are int32
            raise SettingError("n_latents", f"n_latents must be at least 1 and below 2^31, not {n_latents}")
        rule.check(n_latents)
        self.W_enc = nn.Parameter(torch.empty(n_latents, d_model))
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.rule = rule
        self.centred = centred
        self.precision: Precision = "exact"

    def set_precision(self, precision: Precision) -> None:
        if precision not in get_args(Precision):
            raise SettingError("precision", f"precision is 'exact' or 'screened', not '{precision}'")
        self.precision = precision

    def encode(self, x: Tensor) -> SparseCode:
        """`[tok, d_model]` (already centred) -> code."""
        support, known = self._select(x)
        values = sampled_dot(x, self.W_enc, support, bias=self.b_enc, known=known)
        return SparseCode(self.rule.activate(values), support)

    def pre_activations(self, x: Tensor, latents: Tensor) -> Tensor:
        """`[tok, d_model]` -> `[tok, len(latents)]`, dense and differentiable: for few latents."""
        return torch.addmm(self.b_enc[latents], x, self.W_enc[latents].T)

    @torch.no_grad()
    def _select(self, x: Tensor) -> tuple[Support, Tensor | None]:
        """The support, and the pre-activations there where they are known already."""
        if self.precision == "exact":
            pre = self._all_pre_activations(x, self.W_enc, self.b_enc)
            support = self.rule.candidates(pre, screened=False)
            entries = slice(support.nnz)
            known = pre.new_zeros(support.latents.numel())
            known[entries] = pre[support.rows, support.latents[entries].long()]
            return support, known
        low = torch.bfloat16
        pre = self._all_pre_activations(x.to(low), self.W_enc.to(low), self.b_enc.to(low))
        candidates = self.rule.candidates(pre, screened=True)
        values = sampled_dot(x, self.W_enc, candidates, bias=self.b_enc)
        return self.rule.narrow(values, candidates), None

    def _all_pre_activations(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`[tok, lat]`, valid until this thread's next call."""
        block = _SCRATCH.take(x.shape[0], weight.shape[0], like=x)
        return torch.addmm(bias, x, weight.T, out=block)


class _Scratch(threading.local):
    """Memory for one large block per thread, used again and again: fresh pages for a block this large cost
    a third of the matrix product that fills it (measured at 1,024 x 8,192 on a CPU)."""

    block: Tensor | None = None

    def take(self, *shape: int, like: Tensor) -> Tensor:
        block = self.block
        if block is None or block.shape != shape or block.dtype != like.dtype or block.device != like.device:
            block = self.block = torch.empty(shape, dtype=like.dtype, device=like.device)
        return block


_SCRATCH = _Scratch()
"""Shared by all coders: its content means nothing between two calls."""
