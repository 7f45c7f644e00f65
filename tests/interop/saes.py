"""Random SAEs of saelab's own, of every variant, in their inference form."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from saelab.sae import SAE, VARIANTS, Scaling, build

D, LATENTS, K = 16, 64, 6


def random_sae(kind: str, d_out: int | None = None, *, skip: bool = False, **settings: Any) -> SAE:
    """An SAE whose scaling is folded in, and every part of which matters."""
    torch.manual_seed(0)
    known = inspect.signature(VARIANTS[kind]).parameters
    settings |= {name: value for name, value in {"k": K, "l0": 4}.items() if name in known and name not in settings}
    blueprint = build(kind, D, {"n_latents": LATENTS, **settings}, d_out, skip=skip)
    sae = blueprint.sae
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if blueprint.unit_norm_decoder:
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    if not sae.coder.per_token:
        sae.calibrate(torch.randn(256, D))
    target = None if d_out is None else Scaling(torch.randn(d_out), 0.6)
    return sae.inference(Scaling(torch.randn(D), 1.7), target)
