"""Accumulators against closed forms and independent float64 computations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.metrics import Density, Reconstruction, explained_variance, interval


def measured(x, r, batches=1, order=None):
    seen = Reconstruction()
    index = torch.arange(len(x)) if order is None else order
    for part in index.chunk(batches):
        seen.update(x[part], r[part], torch.full((len(part),), 3))
    return seen.result()


def test_perfect_zero_and_mean_reconstructions():
    x = torch.randn(200, 7) + 5
    perfect = measured(x, x)
    assert perfect["fvu"] == pytest.approx(0)
    assert perfect["cosine"] == pytest.approx(1)
    assert perfect["shrinkage"] == pytest.approx(1)
    mean = measured(x, x.mean(0).expand_as(x))
    assert mean["fvu"] == pytest.approx(1, abs=1e-6)
    assert mean["explained_variance"] == pytest.approx(0, abs=1e-6)
    zero = measured(x, torch.zeros_like(x))
    assert zero["nmse"] == pytest.approx(1)
    assert zero["fvu"] > 1
    assert measured(x, x / 2)["shrinkage"] == pytest.approx(0.5)


@given(st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_results_do_not_depend_on_batches_or_order(batches, seed):
    g = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(50, 6, generator=g) * 40 + 100, torch.randn(50, 6, generator=g)
    order = torch.randperm(50, generator=g)
    whole, parts = measured(x, x + noise), measured(x, x + noise, batches, order)
    for name in whole:
        assert parts[name] == pytest.approx(whole[name], rel=1e-6, abs=1e-9)


def test_formulas_against_numpy_in_float64():
    x, r = torch.randn(300, 5) * 3 + 50, torch.randn(300, 5) * 3 + 50
    found = measured(x, r)
    a, b = x.double().numpy(), r.double().numpy()
    error = ((a - b) ** 2).sum()
    assert found["fvu"] == pytest.approx(error / ((a - a.mean(0)) ** 2).sum(), rel=1e-9)
    assert found["mse"] == pytest.approx(((a - b) ** 2).mean())
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found["cosine"] == pytest.approx(cosine.mean())
    assert found["l0"] == 3
    assert found["l0_std"] == 0


def test_shrinkage_minimises_the_rescaled_error():
    x = torch.randn(100, 5)
    r = 0.7 * x + 0.1 * torch.randn(100, 5)
    gamma = measured(x, r)["shrinkage"]
    errors = [float(((r / g - x) ** 2).sum()) for g in (gamma * 0.99, gamma, gamma * 1.01)]
    assert errors[1] == min(errors)


def test_nothing_seen_gives_nothing():
    assert Reconstruction().result() == {}


def test_density_counts_dead_dense_and_bins():
    seen = Density(4)
    seen.update(torch.tensor([0, 1, 50, 100]), 60)
    seen.update(torch.tensor([0, 0, 0, 100]), 140)
    assert seen.result() == {"dead_frac": 0.25, "dense_frac": 0.5, "median_density": 0.25}
    histogram = seen.histogram()
    assert sum(histogram["latents"]) == 3
    edges = histogram["log10_density_edges"]
    (lowest,) = [i for i, n in enumerate(histogram["latents"]) if n == 1 and edges[i] < -2]
    assert edges[lowest] <= np.log10(1 / 200) < edges[lowest + 1]
    always = Density(1)
    always.update(torch.tensor([10]), 10)
    assert always.histogram()["latents"][-1] == 1


def test_bootstrap_covers_the_truth_and_needs_two_documents():
    rng = np.random.default_rng(0)
    sums = np.stack([np.full(200, 10.0), rng.normal(20, 5, 200)], 1)
    low, high = interval(sums, lambda t: t[1] / t[0], seed=1) or (0, 0)
    assert low < 2.0 < high
    assert high - low < 0.2
    assert interval(sums, lambda t: t[1] / t[0], seed=1) == (low, high)
    assert interval(sums[:1], lambda t: t[1] / t[0], seed=1) is None


def test_explained_variance_of_a_batch_is_the_accumulators():
    x = torch.randn(300, 5) * 3 + 50
    for r in (x + torch.randn(300, 5), x.mean(0).expand_as(x), torch.randn(300, 5)):
        assert float(explained_variance(x, r)) == pytest.approx(
            measured(x, r)["explained_variance"], rel=1e-4, abs=1e-6
        )
    assert float(explained_variance(x, x)) == 1.0
    alike = torch.ones(4, 5)
    assert not torch.isfinite(explained_variance(alike, alike + 1))
