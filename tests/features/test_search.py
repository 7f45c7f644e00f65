"""Finding latents by tokens and numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saelab.features import Bundle, search
from saelab.features.search import Vocabulary, by_token, only, ranked
from saelab.testing.bundles import tiny_bundle

WORDS = Vocabulary(["king", " king", " King", "KING", " looking", "", " ", "İstanbul", " straße"])


@pytest.mark.parametrize(
    ("typed", "ids", "how"),
    [
        ("king", [0, 1], "exact"),
        (" king ", [0, 1], "exact"),
        ("King", [2], "exact"),
        ("kING", [0, 1, 2, 3], "case"),
        ("STRASSE", [8], "case"),
        ("ok", [4], "part"),
        ("zebra", [], "part"),
        ("", [], "exact"),
        ("  ", [], "exact"),
    ],
)
def test_typed_text_matches_in_the_closest_way_there_is(typed: str, ids: list[int], how: str):
    found = WORDS.find(typed)
    assert (found.ids.tolist(), found.how) == (ids, how)


def test_few_of_many_tokens_are_named():
    found = Vocabulary([f"a{i}" for i in range(100)]).find("a")
    assert len(found.ids) == 100
    assert len(found.texts) == search.TOKENS_SHOWN


@pytest.mark.parametrize("role", ["fires", "promotes"])
def test_latents_are_scored_by_the_best_of_the_tokens(role: search.Role, tmp_path: Path):
    bundle = Bundle(tiny_bundle(tmp_path))
    tokens, numbers = search.TOKEN_COLUMNS[role]
    ids = np.array([2, 5])
    found = by_token(bundle, ids, role)
    for latent in range(bundle.n_latents):
        pairs = zip(bundle.columns[tokens][latent], bundle.columns[numbers][latent], strict=True)
        best = max((x for token, x in pairs if token in ids), default=np.nan)
        np.testing.assert_equal(found[latent], np.float64(best))
    assert np.isnan(by_token(bundle, np.array([], dtype=np.int64), role)).all()
    assert np.isnan(by_token(bundle, np.array([10**6]), role)).all()


def test_numbers_that_are_no_latent_are_passed_over(tmp_path: Path):
    bundle = Bundle(tiny_bundle(tmp_path))
    assert np.flatnonzero(only(bundle, [3, -1, 99, 5])).tolist() == [3, 5]
    assert not only(bundle, []).any()


def test_ties_are_in_order_and_what_has_no_value_comes_last():
    key = np.array([1.0, np.nan, 3.0, 1.0, 9.0])
    keep = np.array([True, True, True, True, False])
    assert ranked(keep, key, descending=True).tolist() == [2, 0, 3, 1]
    assert ranked(keep, key, descending=False).tolist() == [0, 3, 2, 1]
