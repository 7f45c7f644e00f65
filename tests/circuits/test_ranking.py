"""What scores are held against, and how."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from saelab.circuits import CUT_OFF, Cost, Scores, Truth, by_patching, published, rank
from saelab.circuits.faithfulness import area
from saelab.circuits.ranking import expected_hits, roc
from saelab.circuits.truth import PUBLISHED


def scores(values: list[float], signed: bool = False) -> Scores:
    return Scores("m", torch.tensor(values).view(2, -1), Cost(), signed)


def truth(members: list[int], effects: list[float] | None = None) -> Truth:
    known = None if effects is None else torch.tensor(effects).view(2, -1)
    return Truth("t", torch.tensor(members).bool().view(2, -1), known)


def test_a_ranking():
    found = rank(scores([4, 3, 2, 1]), truth([1, 0, 1, 0], [0.9, 0.1, -0.4, 0.0]), at=(1, 3), rounds=50)
    assert found.auc == 0.75
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.precision == {1: 1.0, 2: 0.5, 3: pytest.approx(2 / 3)}
    assert found.recall == {1: 0.5, 2: 0.5, 3: 1.0}
    assert found.rank_correlation == pytest.approx(0.8)
    assert found.size == 2
    assert found.auc_interval is not None
    assert 0 <= found.auc_interval[0] <= 0.75 <= found.auc_interval[1] <= 1


def test_signs_do_not_matter_to_membership():
    assert rank(scores([-4, 1, 3, 0], signed=True), truth([1, 0, 1, 0])).auc == 1
    assert rank(scores([-4, 1, 3, 0], signed=False), truth([1, 0, 1, 0])).auc == 0.5


@pytest.mark.parametrize("members", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_what_cannot_be_measured_is_not(members):
    found = rank(scores([4, 3, 2, 1]), truth(members))
    assert (found.auc, found.average_precision, found.rank_correlation) == (None, None, None)
    assert rank(scores([1, 1, 1, 1]), truth([1, 0, 0, 0], [1, 0, 0, 0])).rank_correlation is None


def test_ties_get_what_chance_would_give_them():
    values, known = torch.tensor([1.0, 1.0, 1.0, 0.0]).numpy(), torch.tensor([True, False, False, True]).numpy()
    assert expected_hits(values, known, 1) == pytest.approx(1 / 3)
    assert expected_hits(values, known, 3) == 1
    assert expected_hits(values, known, 4) == 2
    assert roc(values, known)[0] == (0.0, 0.0)


def test_a_truth_for_each_cut_off_the_chosen_one_first():
    found = by_patching(scores([0.3, -0.12, 0.06, 0.0], signed=True), effect=5.0)
    assert list(found) == [CUT_OFF, 0.01, 0.05]
    assert [int(found[cut].members.sum()) for cut in (0.01, 0.02, 0.05)] == [3, 2, 1]
    assert "at least 2 %" in found[0.02].source


def test_published_circuits_have_the_sizes_of_their_lists():
    sizes = [(known.task, len(known.all), len(set(known.all))) for known in PUBLISHED]
    assert sizes == [
        ("ioi", 26, 26), ("ioi", 26, 26), ("greater_than", 9, 9), ("greater_than", 7, 7),
        ("docstring", 6, 6), ("docstring", 6, 6), ("docstring", 8, 8),
    ]  # fmt: skip
    assert set(PUBLISHED[0].all) - set(PUBLISHED[1].all) == {(9, 0)}
    assert set(PUBLISHED[1].all) - set(PUBLISHED[0].all) == {(11, 3)}
    for known in PUBLISHED:
        layers, heads, _ = known.shape
        assert all(layer < layers and head < heads for layer, head in known.all)


def test_published_circuits_are_used_for_their_model_alone(word_lm, monkeypatch):
    from saelab.circuits import truth as module

    assert published(word_lm, "ioi") == []
    shape = SimpleNamespace(n_layers=12, n_heads=12, d_model=768)
    monkeypatch.setattr(module.Anatomy, "of", classmethod(lambda cls, lm: shape))
    named = lambda name: SimpleNamespace(identity={"name": name})  # noqa: E731
    found = published(named("openai-community/gpt2"), "ioi")  # type: ignore[arg-type]
    assert [int(one.members.sum()) for one in found] == [26, 26]
    assert found[0].members[9, 9]
    assert published(named("my-gpt2"), "ioi") == []  # type: ignore[arg-type]
    shape.d_model = 1024
    assert published(named("gpt2"), "ioi") == []  # type: ignore[arg-type]


def test_areas():
    assert area((0.0, 0.5, 1.0), (0.0, 1.0, 1.0)) == pytest.approx(0.75)
    assert area((0.0, 1.0), (1.0, 0.0)) == pytest.approx(0.5)
