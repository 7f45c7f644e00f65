"""Geometry and one-to-one pairs on dictionaries whose cosines are known."""

from __future__ import annotations

import pytest
import torch

from saelab.errors import SettingError
from saelab.evals import EVALUATORS
from saelab.evals.base import NotMeasurable
from saelab.evals.cosines import among, pair, unit
from saelab.evals.geometry import Geometry, coherence
from saelab.sae import SparseCode
from saelab.testing import recovery


@pytest.fixture
def measured(subject_of):
    return lambda sae, **settings: Geometry(**settings)(subject_of(sae))


def test_an_orthonormal_dictionary(measured, with_rows):
    found = measured(with_rows(torch.eye(32)), babel=(1, 2, 8)).metrics
    for name in ("max_cosine", "mean_cosine", "nearest_cosine", "duplicates_frac", "opposites_frac", "active_babel"):
        assert found[f"geometry_{name}"] == pytest.approx(0, abs=1e-7)
    assert [found[f"geometry_babel_{size}"] for size in (1, 2, 8)] == [0, 0, 0]
    assert found["geometry_encoder_decoder_cosine"] == pytest.approx(1)
    assert found["geometry_random_max_cosine"] > 0.3


def test_copies_and_opposites(measured, with_rows):
    eye = torch.eye(32)
    found = measured(with_rows(torch.cat([eye[:12], 3 * eye[:4], -eye[:2]])), babel=(1, 2, 3)).metrics
    assert found["geometry_max_cosine"] == pytest.approx(1)
    assert found["geometry_duplicates_frac"] == pytest.approx(8 / 18)
    assert found["geometry_opposites_frac"] == pytest.approx(6 / 18)
    assert found["geometry_nearest_cosine"] == pytest.approx(10 / 18)
    assert [found[f"geometry_babel_{size}"] for size in (1, 2, 3)] == pytest.approx([1, 2, 2])
    pairs = 2 * 4 + 2 * 2 * 2  # four copies; each opposite meets a row and its copy
    assert found["geometry_mean_cosine"] == pytest.approx(pairs / (18 * 17))


def test_a_turned_dictionary_is_the_same(measured, with_rows):
    rows = unit(torch.randn(40, 32, generator=torch.Generator().manual_seed(0)))
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    plain, turned = (measured(with_rows(found)).metrics for found in (rows, rows @ turn))
    for name in ("geometry_max_cosine", "geometry_mean_cosine", "geometry_babel_8"):
        assert plain[name] == pytest.approx(turned[name], abs=1e-5)


def test_a_random_dictionary_sits_at_the_null(measured, with_rows):
    rows = recovery.random_dictionary(600, 32, torch.Generator().manual_seed(5))
    found = measured(with_rows(rows)).metrics
    for name, near in (("mean_cosine", 0.01), ("nearest_cosine", 0.01), ("babel_16", 0.1)):
        assert found[f"geometry_{name}"] == pytest.approx(found[f"geometry_random_{name}"], rel=near)
    assert found["geometry_mean_cosine"] == pytest.approx((2 / (torch.pi * 32)) ** 0.5, rel=0.03)


def test_blocks_make_no_difference(monkeypatch):
    rows = unit(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    whole = among(rows, 5)
    monkeypatch.setattr("saelab.evals.cosines._BLOCK_ENTRIES", 50 * 7)
    told: list[int] = []
    parts = among(rows, 5, lambda done, total: told.append(done))
    assert told == [7, 14, 21, 28, 35, 42, 49, 50]
    assert parts.mean == pytest.approx(whole.mean)
    for name in ("highest", "lowest", "largest"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    cosines = (rows @ rows.T).fill_diagonal_(0).abs()
    torch.testing.assert_close(whole.babel(3), cosines.sort(descending=True).values[:, :3].double().sum(1))


def test_coherence_of_latents_that_meet():
    rows = unit(torch.tensor([[1.0, 0], [1, 1], [0, 1]]))
    code = SparseCode.from_dense(torch.tensor([[0.0, 0, 3], [1, 0, 1], [1, 1, 1]]))
    half = 0.5**0.5
    expected = [[0, 0], [4 * half / 6, 2 * half]]  # the first token has one latent, and is left out
    torch.testing.assert_close(coherence(rows, code), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_what_has_no_encoder_of_its_own_or_no_rows(measured, with_rows):
    rows = recovery.random_dictionary(16, 32, torch.Generator().manual_seed(0))
    result = measured(with_rows(rows, "codebook"), babel=(1, 64))
    assert result.not_measurable == {
        "geometry_encoder_decoder_cosine": "it encodes with the decoder's own rows",
        "geometry_babel_64": "there are 15 other rows",
    }
    assert set(result.metrics) == set(result.meaning)
    empty = with_rows(torch.eye(32))
    with torch.no_grad():
        empty.decoder.W_dec[1:] = 0
    with pytest.raises(NotMeasurable, match="there are 1 decoder rows to compare"):
        measured(empty)


@pytest.mark.parametrize(("n", "m", "d"), [(30, 30, 8), (20, 45, 6), (45, 20, 6), (6, 1, 3)])
@pytest.mark.parametrize("signed", [False, True])
def test_pairs_are_the_best_there_are(n, m, d, signed):
    rng = torch.Generator().manual_seed(n + m)
    left, right = unit(torch.randn(n, d, generator=rng)), unit(torch.randn(m, d, generator=rng))
    found = pair(left, right, signed=signed, candidates=64)
    best = recovery.match(recovery.cosines(left, right, signed=signed))
    assert float(found.cosine.sum()) == pytest.approx(float(best.similarity.sum()), abs=1e-5)
    assert len(found.left) == len(found.left.unique()) == len(found.right.unique()) == min(n, m)
    cosines = left @ right.T
    cosines = cosines.abs() if signed else cosines
    torch.testing.assert_close(found.nearest, cosines.amax(1).double())
    torch.testing.assert_close(found.cosine, cosines[found.left, found.right].double())


def test_few_candidates_still_pair_everything(monkeypatch):
    monkeypatch.setattr("saelab.evals.cosines._BLOCK_ENTRIES", 30 * 4)
    rng = torch.Generator().manual_seed(0)
    left, right = unit(torch.randn(30, 4, generator=rng)), unit(torch.randn(30, 4, generator=rng))
    few = pair(left, right, signed=False, candidates=1)
    assert len(few.right.unique()) == 30
    assert float(few.cosine.sum()) <= float(pair(left, right, signed=False, candidates=30).cosine.sum())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"babel": ()}, r"babel: must be at least 1, found \(\)"),
        ({"near": 1.5}, "near: a cosine between 0 and 1, found 1.5"),
        ({"seed": -1}, "a seed lies between"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(SettingError, match=message):
        EVALUATORS["geometry"](**settings)
