"""Selection rules and coders one by one: what each paper says must hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saelab.sae import build
from saelab.sae.code import Seen
from saelab.sae.coders.group_bias import GroupBias, group_targets
from saelab.sae.rules import (
    GradientTopK,
)
from saelab.sae.rules.quotas import capped, fit_zipf

DOUBLE = torch.float64


@given(
    st.lists(st.integers(0, 2000), min_size=3, max_size=300),
    st.integers(1, 3),
    st.integers(0, 4),
)
@settings(max_examples=100, deadline=None)
def test_any_measured_densities_give_quotas_that_add_up(counts, k, extra):
    density = torch.tensor(counts, dtype=torch.float32) / 2000
    shares = fit_zipf(density).densities(len(density) * 10**extra, float(k))
    assert float(shares.sum()) == pytest.approx(k, rel=1e-9)
    assert bool((shares >= 0).all())
    assert bool((shares <= 1).all())
    assert bool((shares.diff() <= 1e-12).all())


def test_densities_that_fall_like_an_exponential_give_quotas():
    density = torch.exp(-torch.arange(64) / 16.0) / 50
    curve = fit_zipf(density)
    assert curve.exponent > 300  # (rank + shift) ** -exponent is 0 in any floating point format
    assert float(curve.densities(64, 4.0).sum()) == pytest.approx(4)


def test_a_share_above_1_goes_to_the_others_in_proportion():
    shares = capped(torch.tensor([100.0, 2.0, 1.0, 1.0], dtype=DOUBLE), 2.0)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.5, 0.25, 0.25], dtype=DOUBLE))


def test_a_batch_of_no_token_leaves_the_running_mean_alone():
    sae = build("gradient_topk", 16, {"n_latents": 60, "k": 5}).sae
    assert sae.encode(torch.zeros(0, 16), {"loss_grad": torch.zeros(0, 16)}).n_tokens == 0
    sae.encode(torch.randn(2, 3, 16), {"loss_grad": torch.randn(2, 3, 16)})
    rule = sae.coder.rule
    assert isinstance(rule, GradientTopK)
    assert float(rule.mean_attribution) > 0


def group_bias(**changes: Any) -> tuple[GroupBias, Tensor]:
    """A coder of 30 latents in 3 groups with `W_dec` `[30, 16]`."""
    settings = {"rate": 0.1, "period_tokens": 100, "bound": 0.25, "warm_start": False} | changes
    coder = GroupBias(16, group_targets(30, 3, 0.4, 0.01, None), **settings)
    return coder, torch.nn.functional.normalize(torch.randn(30, 16, generator=torch.Generator().manual_seed(0)), dim=1)


def test_a_warm_start_fires_at_the_target_frequencies():
    coder, rows = group_bias(warm_start=True, bound=10.0)
    x = torch.randn(3000, 16)
    coder.encode(Seen(x[:0], rows))  # says nothing yet
    assert not coder.started
    fired = coder.encode(Seen(x, rows)).code.firing_counts() / 3000
    torch.testing.assert_close(fired, coder.target, rtol=0, atol=1e-3)
    before = coder.b_enc.clone()
    coder.encode(Seen(3 * x, rows))
    assert torch.equal(coder.b_enc, before)
