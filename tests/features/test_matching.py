"""Two dictionaries side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saelab.errors import SaelabError
from saelab.features import matching
from saelab.features.matching import Match, match


def directions(n: int, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_a_permutation_is_recovered():
    rows, order = directions(60), torch.randperm(60, generator=torch.Generator().manual_seed(1))
    found = match(rows, rows[order] * torch.linspace(0.1, 9, 60)[:, None])  # lengths do not matter
    assert found.right_of.tolist() == order.argsort().tolist()
    assert found.left_of.tolist() == order.tolist()
    assert len(found.mutual()) == 60
    np.testing.assert_allclose(found.right_cosine, 1, atol=1e-6)


def test_cosines_are_those_of_brute_force_whatever_the_block(monkeypatch):
    left, right = directions(37, seed=2), directions(23, seed=3)
    cosines = torch.nn.functional.cosine_similarity(left[:, None], right[None], dim=-1).numpy()
    for entries in (1, 100, 1 << 20):
        monkeypatch.setattr(matching, "_BLOCK_ENTRIES", entries)
        done: list[tuple[int, int]] = []
        found = match(left, right, report=lambda a, b, done=done: done.append((a, b)))
        assert found.right_of.tolist() == cosines.argmax(1).tolist()
        assert found.left_of.tolist() == cosines.argmax(0).tolist()
        np.testing.assert_allclose(found.right_cosine, cosines.max(1), atol=1e-6)
        np.testing.assert_allclose(found.left_cosine, cosines.max(0), atol=1e-6)
        assert done[-1] == (37, 37)


def test_mutual_nearest_and_unmatched():
    left = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, -1.0]])
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    found = match(left, right)
    assert found.mutual() == [Match(0, 0, 1.0), Match(2, 1, 1.0)]
    assert [(one.left, one.right) for one in found.nearest(0.5)] == [(0, 0), (2, 1), (1, 0)]
    alone_left, alone_right = found.unmatched(0.8)
    assert alone_left.tolist() == [3]
    assert alone_right.tolist() == [2]


def test_a_row_of_norm_zero_matches_nothing():
    found = match(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert found.unmatched(0.5)[0].tolist() == [0]
    assert found.mutual() == [Match(1, 0, 1.0)]


def test_other_widths_are_refused():
    with pytest.raises(SaelabError, match=r"different widths, 16 and 8\n.*two SAEs of the same hook"):
        match(directions(3), directions(3, 8))
