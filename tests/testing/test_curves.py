"""Whole training runs with fast kernels and with the plain reference: the same loss curves, but for rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.activations.loader import Batch
from saelab.sae import build
from saelab.sae.coders import Precision
from saelab.testing.planted import Superposed
from saelab.training import Member, TrainSpec

STEPS = 300
WORLD = Superposed(n_features=256, zipf=0.7, n_active=4.0, noise=0.2)
SPEC = TrainSpec(tokens=256 * STEPS, batch_tokens=256, lr=3e-3, warmup_steps=20, dead_after_tokens=10_000)


def curve(kind: str, settings: dict[str, Any], precision: Precision, dtype: torch.dtype = torch.float32) -> Tensor:
    """`[STEPS]` losses."""
    torch.manual_seed(0)
    blueprint = build(kind, WORLD.d_model, {"n_latents": 256, **settings})
    blueprint.sae.to(dtype)
    member = Member("curve", blueprint, SPEC, precision=precision, device=torch.device("cpu"))
    member.objective.to(dtype)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for number in range(STEPS):
        x = WORLD.sample(SPEC.batch_tokens, generator).x.to(dtype)
        losses.append(member.step(Batch(x, x), number)["losses/total"].double())
    return torch.stack(losses)


CASES: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "feature_choice": {"k": 4, "mutual_frac": 0.3},
    "jumprelu": {},
    "matching_pursuit": {"k": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_three_hundred_steps_differ_by_rounding_alone(monkeypatch, kind):
    """Runs drift apart as rounding is amplified; how far, two references in different precision say."""
    fast, screened = (curve(kind, CASES[kind], precision) for precision in ("exact", "screened"))
    monkeypatch.setenv("SAELAB_KERNELS", "reference")
    single, double = (curve(kind, CASES[kind], "exact", dtype) for dtype in (torch.float32, torch.float64))
    assert float(double[-20:].mean()) < 0.7 * float(double[0])  # there is something to learn
    noise = ((single - double) / double).abs()
    for name, found in (("exact", fast), ("screened", screened)):
        apart = ((found - double) / double).abs()
        assert float(apart[:5].max()) < 1e-4, name
        assert float(apart.mean()) <= 3 * float(noise.mean()) + 1e-3, name
        assert end(found, double) <= 5 * end(single, double) + 0.01, name


def end(found: Tensor, truth: Tensor) -> float:
    """How far apart they finish, as a share."""
    return abs(float(found[-50:].mean() / truth[-50:].mean()) - 1)
