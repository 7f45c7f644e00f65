"""Error by groups of tokens: parts that add up to the whole, whatever the groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.metrics import Groups, Reconstruction, equal_groups


def test_equal_groups_are_equal_and_in_order():
    values = np.random.default_rng(0).permutation(1000)
    group = equal_groups(values, 10)
    assert np.bincount(group).tolist() == [100] * 10
    assert (group == values // 100).all()


def test_equal_values_stay_together_at_the_middle_of_their_ranks():
    assert equal_groups([5.0] * 7, 10).tolist() == [5] * 7
    assert equal_groups([0] * 60 + [1] * 40, 10).tolist() == [3] * 60 + [8] * 40  # ranks 1-60 and 61-100
    assert equal_groups([], 10).tolist() == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5))
def test_groups_add_up_to_the_fvu_of_all_tokens(seed: int, n_groups: int, n_documents: int):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 3)) + rng.normal(size=3)
    recon = x + rng.normal(size=x.shape) * rng.exponential(size=(50, 1))
    l0 = rng.integers(0, 9, 50)
    group, document = rng.integers(n_groups, size=50), rng.integers(n_documents, size=50)
    error, deviation = ((x - recon) ** 2).sum(1), ((x - x.mean(0)) ** 2).sum(1)

    whole = Reconstruction()
    whole.update(torch.from_numpy(x), torch.from_numpy(recon), torch.from_numpy(l0))
    groups = Groups.of(group, document, error, deviation, l0, n_groups)
    tokens, error_sum, deviation_sum, l0_sum = groups.sums.sum((0, 1))
    assert tokens == groups.tokens.sum() == 50
    assert error_sum / deviation_sum == pytest.approx(whole.result()["fvu"], rel=1e-10)
    assert l0_sum / tokens == pytest.approx(whole.result()["l0"])
    assert groups.error_share.sum() == pytest.approx(1)
    for g in range(n_groups):
        own = group == g
        if own.any():
            assert groups.fvu[g] == pytest.approx(error[own].sum() / deviation[own].sum())
            assert groups.l0[g] == pytest.approx(l0[own].mean())
        else:
            assert np.isnan([groups.fvu[g], groups.l0[g]]).all()


def test_an_interval_needs_two_documents_of_the_group_and_holds_what_they_agree_on():
    groups = Groups.of([0, 0, 1], [4, 9, 4], [1.0, 2.0, 3.0], [2.0, 4.0, 3.0], [1, 1, 1], 3)
    assert groups.fvu_interval(0, seed=0, rounds=20) == (0.5, 0.5)
    assert groups.fvu_interval(1, seed=0, rounds=20) is None
    assert groups.fvu_interval(2, seed=0, rounds=20) is None


def test_a_perfect_reconstruction_has_no_shares_of_error():
    groups = Groups.of([0, 1], [0, 0], [0.0, 0.0], [1.0, 0.0], [1, 1], 2)
    assert groups.fvu[0] == 0
    assert np.isnan(groups.fvu[1])
    assert np.isnan(groups.error_share).all()
