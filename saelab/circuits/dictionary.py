"""The small autoencoder whose strongest latent is a head's code.

Source: O'Neill and Bui 2024 (arXiv 2405.12522), their loss, constraints and constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from saelab.errors import SettingError

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
        for key in ("n_latents", "epochs"):
            if getattr(self, key) < 1:
                raise SettingError(key, f"must be at least 1, found {getattr(self, key)}")


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

    def codes(self, x: Tensor) -> Tensor:
        """`[..., d]` -> `[...]` int64: the strongest latent, `NONE` where none is active."""
        pre = (self.scale * x - self.bias) @ self.W_enc.T + self.b_enc
        best = pre.max(-1)
        return best.indices.masked_fill(best.values <= 0, NONE)


def train(x: Tensor, spec: DictionarySpec, seed: int) -> Dictionary:
    """On `[example, d]` float32, all of them in every step."""
    rng = torch.Generator().manual_seed(seed)
    n, d = spec.n_latents, x.shape[1]
    scale = float(1 / x.square().mean().sqrt().clamp_min(1e-12)) if spec.scaled else 1.0
    x = scale * x
    encode = normalize(torch.randn(n, d, generator=rng), dim=1)
    decode = torch.randn(n, d, generator=rng)
    shift = (torch.rand(n, generator=rng) * 2 - 1) / d**0.5
    params = [tensor.requires_grad_() for tensor in (encode, decode, shift, torch.zeros(d))]
    W_enc, W_dec, b_enc, bias = params
    axis = 1 if spec.unit_columns else 0
    optimiser = torch.optim.Adam(params, lr=spec.lr)
    for _ in range(spec.epochs):
        with torch.no_grad():
            W_enc.copy_(normalize(W_enc, dim=1))
            W_dec.copy_(normalize(W_dec, dim=axis))
        code = relu((x - bias) @ W_enc.T + b_enc)
        missed = code @ W_dec + bias - x
        loss = missed.square().mean() + spec.sparsity * code.sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        _keep_norms(W_enc, 1)
        _keep_norms(W_dec, axis)
        optimiser.step()
    return Dictionary(W_enc.detach(), W_dec.detach(), b_enc.detach(), bias.detach(), scale)


@torch.no_grad()
def _keep_norms(weight: Tensor, axis: int) -> None:
    """Take from the gradient what would change norms along `axis`."""
    if weight.grad is not None:
        unit = normalize(weight, dim=axis)
        weight.grad -= (weight.grad * unit).sum(axis, keepdim=True) * unit
