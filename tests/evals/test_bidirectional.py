"""Two poles by one latent or two: planted codes whose answers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from saelab.activations.store import Store
from saelab.errors import SettingError
from saelab.evals import EVALUATORS, Subject
from saelab.evals.base import NotMeasurable
from saelab.evals.bidirectional import Bidirectional, best_cuts, pairs
from saelab.evals.labelled import Seen
from saelab.lm.model import ModelSpec, load
from saelab.sae import SparseCode, build
from saelab.tasks import Labelled
from saelab.testing.tiny import tiny_model

N = 600


def planted(*told: Tensor, bidirectional: bool = True) -> tuple[Seen, SparseCode]:
    """Latents 0, 1, ... carry `told`, `[example]` each; 60 others are noise."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(N, 60, generator=rng) * (torch.rand(N, 60, generator=rng) < 0.1)
    code = torch.cat([*(column[:, None].float() for column in told), noise], 1)
    concept = Labelled(
        ("minus", "plus"), torch.zeros(N, 2), torch.arange(N), torch.ones(N), LABEL, TEST, bidirectional=bidirectional
    )
    x = torch.randn(N, 16, generator=rng) + 4 * (2 * LABEL[:, None] - 1) * (torch.arange(16) == 3)
    return Seen(concept, x), SparseCode.from_dense(code)


LABEL = torch.arange(N) % 2
TEST = torch.arange(N) % 3 == 0
EARLY = torch.arange(N) % 4 < 2  # half of each pole, in train and in test


def accuracies(*told: Tensor) -> dict[str, float]:
    part = Bidirectional().concept(*planted(*told))
    assert json.loads(json.dumps(part)) == part
    return {name: row["accuracy"] for name, row in part["readers"].items()}


@pytest.mark.parametrize("direction", [1, -1])
def test_one_signed_latent_tells_both_poles_by_its_sign(direction):
    found = accuracies(direction * (2 * LABEL - 1))
    assert (found["one"], found["sign"], found["dim"]) == (1, 1, 1)


def test_a_latent_of_one_pole_tells_them_apart_but_not_by_its_sign():
    found = accuracies(LABEL)
    assert (found["one"], found["sign"]) == (1, 0.5)


def test_two_latents_where_each_knows_half_a_pole():
    found = accuracies(LABEL * EARLY, LABEL * ~EARLY)
    assert found["one"] == pytest.approx(0.75, abs=0.02)
    assert found["two"] == 1


def test_two_latents_whose_difference_tells():
    common = 10 * torch.rand(N, generator=torch.Generator().manual_seed(3))
    found = accuracies(common + LABEL, common + 1 - LABEL)
    assert found["one"] < 0.7
    assert found["two"] == 1


def test_noise_and_shuffled_labels_are_at_chance():
    found = accuracies()
    assert abs(found["one"] - 0.5) < 0.1
    assert abs(found["two"] - 0.5) < 0.1
    nulls = [Bidirectional(seed=seed).concept(*planted(2 * LABEL - 1))["readers"]["null"] for seed in range(12)]
    assert abs(np.mean([null["accuracy"] for null in nulls]) - 0.5) < 0.05


def test_the_same_number_of_trials_whatever_the_dictionary():
    first, second = pairs(50, 120)
    assert len(first) == 120
    assert second.max() == 15  # 16 latents make 120 pairs
    assert (first < second).all()
    assert [column.tolist() for column in pairs(1, 120)] == [[0], [0]]


def test_fewer_trials_miss_a_weaker_latent():
    """A latent that differs more in mean than it tells, and one the other way round."""
    rng = torch.Generator().manual_seed(1)
    often = LABEL * (torch.rand(N, generator=rng) < 0.8)
    first = Bidirectional(candidates=1).concept(*planted(often, LABEL * 0.001))
    assert (first["one"], first["readers"]["one"]["accuracy"]) == (1, 1)  # deviations make units equal


def test_best_cuts_against_all_cuts():
    rng = np.random.default_rng(0)
    columns, positive = rng.integers(0, 5, (40, 7)).astype(float), rng.random(40) < 0.4
    cuts, accuracy = best_cuts(columns, positive)
    for column in range(7):
        tried = [
            ((columns[positive, column] > cut).mean() + (columns[~positive, column] < cut).mean()) / 2
            for cut in (0.5, 1.5, 2.5, 3.5)
        ]
        assert accuracy[column] == pytest.approx(max(tried))
        assert tried[int(cuts[column])] == pytest.approx(max(tried))


def test_classes_that_are_no_poles_are_not_measured():
    with pytest.raises(NotMeasurable, match="no poles"):
        Bidirectional().concept(*planted(LABEL, bidirectional=False))


def test_a_silent_dictionary_is_not_measured():
    found, code = planted()
    with pytest.raises(NotMeasurable, match="no latent is active on one pole more"):
        Bidirectional().concept(found, code.with_values(code.values * 0))


def test_settings_are_checked():
    with pytest.raises(SettingError, match="unknown concept 'gendr'"):
        Bidirectional(concepts=("gendr",))
    with pytest.raises(SettingError, match="must be at least 1"):
        Bidirectional(candidates=0)


def test_a_language_model_end_to_end(store: Store, tmp_path):
    lm = load(ModelSpec(str(tiny_model(tmp_path / "words", words=True)), dtype="float32", device="cpu"))
    sae = build("relu", 32, {"n_latents": 64}).sae.inference()
    subject = Subject(sae, store, "blocks.1.hook_resid_post", store.mask, lambda: lm)
    found = EVALUATORS["bidirectional"](concepts=("gender", "capital_country"), examples=90, bootstrap_rounds=50)(
        subject
    )
    assert set(found.metrics) == set(found.meaning) == set(found.intervals)
    assert found.not_measurable == {"capital_country": "its classes are no poles of one direction"}
    assert not found.details["signed"]
