"""The small autoencoder whose strongest latent is a head's code.

Source: O'Neill and Bui 2024 (arXiv 2405.12522), their loss, constraints and constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saelab.errors import check_least

NONE = -1
"""The code of an output that no latent answers to."""


@dataclass(frozen=True)
class DictionarySpec:
    """How it is trained: on the whole of a few examples, with Adam."""

    n_latents: int = 200
    epochs: int = 500
    lr: float = 1e-3
    sparsity: Annotated[float, "weight of a code's sum, against the mean squared error per dimension"] = 0.02
    unit_columns: Annotated[
        bool, "give latents' directions norm 1; the original gives it to rows of the other axis, by mistake it seems"
    ] = False
    scaled: Annotated[bool, "train on outputs divided by their root mean square"] = False

    def __post_init__(self) -> None:
        check_least(self, 1, "n_latents", "epochs")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """`code = relu(W_enc (scale x - bias) + b_enc)`.

    Attributes:
        W_enc: `[latent, d]`; W_dec: `[latent, d]`; b_enc: `[latent]`; bias: `[d]`.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    bias: Tensor
    scale: float

    def strengths(self, x: Tensor) -> Tensor:
        """`[..., d]` -> `[..., latent]`, 0 where a latent is not active."""
        return ((self.scale * x - self.bias) @ self.W_enc.T + self.b_enc).relu_()

    def codes(self, x: Tensor) -> Tensor:
        """`[..., d]` -> `[...]` int64: the strongest latent, `NONE` where none is active."""
        best = self.strengths(x).max(-1)
        return best.indices.masked_fill(best.values <= 0, NONE)


def train(x: Tensor, spec: DictionarySpec, seed: int) -> Dictionary:
    """On `[example, d]` float32, all of them in every step."""
    rng = torch.Generator().manual_seed(seed)
    n, d = spec.n_latents, x.shape[1]
    scale = float(1 / x.square().mean().sqrt().clamp_min(1e-12)) if spec.scaled else 1.0
    x = scale * x
    W_enc, W_dec = torch.randn(n, d, generator=rng), torch.randn(n, d, generator=rng)
    b_enc, bias = (torch.rand(n, generator=rng) * 2 - 1) / d**0.5, torch.zeros(d)
    params = (W_enc, W_dec, b_enc, bias)
    axis = 1 if spec.unit_columns else 0
    optimiser = torch.optim.Adam(params, lr=spec.lr)
    slopes = Slopes(x, n, spec.sparsity)
    for _ in range(spec.epochs):
        normalize(W_enc, dim=1, out=W_enc)
        normalize(W_dec, dim=axis, out=W_dec)
        for parameter, slope in zip(params, slopes(*params), strict=True):
            parameter.grad = slope
        _keep_norms(W_enc, 1)
        _keep_norms(W_dec, axis)
        optimiser.step()
    return Dictionary(W_enc, W_dec, b_enc, bias, scale)


class Slopes:
    """Gradients of `mean (x - recon)^2 + sparsity mean_example sum_latent code`, written out: a fifth of the time that
    autograd takes, most of which goes into fresh memory."""

    def __init__(self, x: Tensor, n_latents: int, sparsity: float):
        self._x, self._sparsity = x, sparsity
        self._code, self._slope = (torch.empty(len(x), n_latents) for _ in range(2))
        self._missed = torch.empty_like(x)

    def __call__(self, W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """Of each of these, in this order."""
        x, code, slope, missed = self._x, self._code, self._slope, self._missed
        torch.addmm(b_enc - W_enc @ bias, x, W_enc.T, out=code).relu_()
        torch.addmm(bias, code, W_dec, out=missed).sub_(x).mul_(2 / x.numel())
        torch.mm(missed, W_dec.T, out=slope).add_(self._sparsity / len(x)).mul_(code > 0)
        along = slope.sum(0)
        return slope.T @ x - torch.outer(along, bias), code.T @ missed, along, missed.sum(0) - along @ W_enc


def _keep_norms(weight: Tensor, axis: int) -> None:
    """Take from the gradient what would change norms along `axis`."""
    if weight.grad is not None:
        unit = normalize(weight, dim=axis)
        weight.grad -= (weight.grad * unit).sum(axis, keepdim=True) * unit
