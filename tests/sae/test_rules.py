"""Selection rules and coders one by one: what each paper says must hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
