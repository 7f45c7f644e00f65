"""saelab as a contestant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from saelab.activations.loader import Batch
from saelab.kernels.dispatch import screening_pays
from saelab.sae import build
from saelab.training import Member

from .contest import Recipe, Start


class Saelab:
    """`Member.step`: what the trainer does with a batch, metrics and dead-latent tracker included.

    Args:
        kind, settings: of the variant.
        precision: of selection.
        free_rows: leave the decoder's rows free where the variant would hold them at norm 1.
    """

    def __init__(
        self,
        recipe: Recipe,
        start: Start,
        *,
        kind: str,
        settings: Mapping[str, Any],
        precision: Literal["auto", "exact", "screened"] = "auto",
        free_rows: bool = False,
    ):
        blueprint = build(kind, recipe.d_model, {"n_latents": recipe.n_latents, **settings})
        sae, device = blueprint.sae, torch.device("cpu")
        with torch.no_grad():
            sae.W_dec.copy_(start.rows)
            sae.coder.initialise(sae.W_dec)
            if start.bias:
                sae.coder.get_parameter("b_enc").fill_(start.bias)
        if precision == "auto":
            precision = "screened" if screening_pays(device) else "exact"
        self.member = Member(kind, blueprint, recipe.spec, precision=precision, device=device)
        self.member.unit_norm &= not free_rows
        self.number = 0

    def step(self, batch: Batch) -> None:
        self.member.step(batch, self.number)
        self.number += 1

    def finish(self, x: Tensor) -> None:
        self.member.sae.calibrate(x)
        self.inference = self.member.sae.inference()

    @torch.no_grad()
    def deployed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.inference.encode(x)
        return self.inference.decode(code), code.to_dense()
