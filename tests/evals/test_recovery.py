"""The subject's kind of SAE on planted worlds."""

from __future__ import annotations

import json

import pytest
import torch

from saelab.errors import SettingError
from saelab.evals import EVALUATORS
from saelab.evals.base import NotMeasurable
from saelab.evals.recovery import Recovery
from saelab.sae import build
from saelab.testing import trials
from saelab.testing.planted import Superposed
from saelab.testing.recovery import random_dictionary


@pytest.fixture
def tiny_world(monkeypatch):
    monkeypatch.setitem(trials.WORLDS, "tiny", Superposed(d_model=16, n_features=16, n_active=1.0))
    monkeypatch.setattr("saelab.evals.recovery.EVALUATION_TOKENS", 2000)
    monkeypatch.setattr("saelab.testing.trials.EVALUATION_TOKENS", 2000)


def rows():
    return random_dictionary(48, 32, torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_a_trained_sae_stands_between_the_oracle_and_the_nulls(tiny_world, subject_of, with_rows):
    told = []
    subject = subject_of(with_rows(rows(), k=5), report=lambda *at: told.append(at))
    result = Recovery(worlds=("tiny",), seeds=2, steps=250)(subject)
    found = {name.removeprefix("recovery_"): value for name, value in result.metrics.items()}
    assert found["oracle_mcc"] == pytest.approx(1)
    assert found["oracle_recovered"] == 1
    assert found["mcc"] > 0.8
    assert found["support_f1"] > found["untrained_support_f1"]
    assert max(found["random_mcc"], found["untrained_mcc"]) < 0.75
    assert found["random_recovered"] < 0.1
    assert set(result.metrics) == set(result.meaning)
    assert told == [(1, 2), (2, 2)]
    assert [row[:3] for row in result.tables[0].rows] == [
        ["tiny", name, 2] for name in ("trained", "untrained", "random", "oracle")
    ]
    assert result.n_examples == 4000


def test_settings_are_the_subjects_but_for_width_and_sparsity(tiny_world, subject_of, with_rows, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "saelab.evals.recovery.fit", lambda world, kind, settings, spec, steps: seen.append((kind, settings)) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        Recovery(worlds=("tiny",))(subject_of(with_rows(rows(), "relu", l1=0.25, p_end=0.5)))
    ((kind, settings),) = seen
    assert kind == "relu"
    assert (settings["l1"], settings["p_end"]) == (0.25, 0.5)
    assert (settings["n_latents"], settings["target_l0"]) == (16, 1.0)


@pytest.mark.parametrize("kind", ["relu", "gated", "batch_topk", "abs_topk", "codebook", "gradient_topk"])
def test_variants_can_be_tried_or_say_why_not(tiny_world, subject_of, kind):
    subject = subject_of(build(kind, 32).sae)
    evaluator = Recovery(worlds=("tiny",), seeds=1, steps=2)
    if kind == "gradient_topk":
        with pytest.raises(NotMeasurable, match="tiny: this SAE encodes with loss_grad beside the activations"):
            evaluator(subject)
    else:
        assert 0 < evaluator(subject).metrics["recovery_mcc"] <= 1


def test_a_world_that_is_refused_leaves_the_others(tiny_world, subject_of):
    result = Recovery(worlds=("tiny", "readout"), seeds=1, steps=2)(subject_of(build("gradient_topk", 32).sae))
    assert set(result.not_measurable) == {"recovery on tiny"}
    assert {row[0] for row in result.tables[0].rows} == {"readout"}
    assert "downstream_nats" in str(result.tables[0].rows[0][-1])


def test_settings_that_a_world_cannot_take(tiny_world, subject_of):
    sae = build("matryoshka", 32, {"n_latents": 64, "k": 4, "prefixes": (32, 64)}).sae
    with pytest.raises(NotMeasurable, match=r"tiny: rise strictly and end at n_latents = 16, found \[32, 64\]"):
        Recovery(worlds=("tiny",), seeds=1, steps=2)(subject_of(sae))
    with pytest.raises(NotMeasurable, match="planted worlds have one hook"):
        Recovery()(subject_of(build("topk", 32, d_out=32).sae))


def test_it_goes_on_with_the_next_seed(tiny_world, subject_of, with_rows):
    kept, made = {}, []

    def part(name, make):
        if name not in kept:
            made.append(name)
            kept[name] = json.loads(json.dumps(make()))
        return kept[name]

    subject = subject_of(with_rows(rows()), part=part)
    Recovery(worlds=("tiny",), seeds=1, steps=2)(subject)
    Recovery(worlds=("tiny",), seeds=2, steps=2)(subject)
    assert made == ["tiny 0", "tiny 1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"worlds": ("zip",)}, r"worlds: unknown planted world 'zip'\n  fix: did you mean 'zipf'\?"),
        ({"worlds": ()}, "worlds: names none"),
        ({"seeds": 0}, "seeds: must be at least 1, found 0"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(SettingError, match=message):
        EVALUATORS["recovery"](**settings)
