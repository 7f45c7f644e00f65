"""*Gated*: one half decides whether a latent is active, the other how strongly."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from saelab.kernels import sampled_dot, spread
from saelab.sae.code import Encoding, Seen, SparseCode
from saelab.sae.coders.base import Coder, check_n_latents
from saelab.sae.coders.one_step import select
from saelab.sae.rules import ReLU

_GATE = ReLU()


class Gated(Coder):
    """`z = 1[g > 0] relu(exp(r) (W_enc x) + b_mag)` with the gate `g = W_enc x + b_gate`.

    Channels: `gate` `[entries]`, `relu(g)`; the support is where it is positive. The step has no
    gradient: the gate learns from the losses on `gate` alone.

    Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), with the weights tied by `r`.

    Attributes:
        W_enc: `[n_latents, d_model]`; b_gate, b_mag, r_mag: `[n_latents]`.
    """

    def __init__(self, d_model: int, n_latents: int):
        super().__init__(centred=True)
        check_n_latents(n_latents)
        self.W_enc = nn.Parameter(torch.empty(n_latents, d_model))
        self.b_gate = nn.Parameter(torch.zeros(n_latents))
        self.b_mag = nn.Parameter(torch.zeros(n_latents))
        self.r_mag = nn.Parameter(torch.zeros(n_latents))

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"gate"})

    def initialise(self, W_dec: Tensor) -> None:
        self.W_enc.copy_(W_dec)

    def encode(self, seen: Seen) -> Encoding:
        found = select(_GATE, seen, self.W_enc, self.b_gate, screened=self.precision == "screened")
        support = found.support
        gate = sampled_dot(seen.x, self.W_enc, support, bias=self.b_gate, known=found.values)
        plain = gate - spread(self.b_gate, support)
        strength = torch.relu(plain * spread(self.r_mag.exp(), support) + spread(self.b_mag, support))
        values = torch.where(gate > 0, strength, 0.0)
        return Encoding(SparseCode(values, support), {"gate": torch.relu(gate)})

    def pre_activations(self, seen: Seen, latents: Tensor) -> Tensor:
        """Of the gate."""
        return torch.addmm(self.b_gate[latents], seen.x, self.W_enc[latents].T)

    def inference(self, W_dec: Tensor) -> Self:
        self.precision = "exact"
        return self

    def rescale(self, factor: Tensor) -> None:
        self.W_enc.mul_(factor[:, None])
        self.b_gate.mul_(factor)
        self.b_mag.mul_(factor)

    def fold(self, mean: Tensor, factor: float) -> None:
        self.b_gate.div_(factor)
        self.b_mag.div_(factor)
        if not self.centred:
            shift = self.W_enc @ mean
            self.b_gate.sub_(shift)
            self.b_mag.sub_(self.r_mag.exp() * shift)
