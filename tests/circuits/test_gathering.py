"""What was made one by one, gathered: the same as an experiment of it."""

from __future__ import annotations

import pytest
import torch

from saelab.circuits import (
    CUT_OFF,
    METHODS,
    Circuits,
    Entry,
    Plan,
    ablate_together,
    by_patching,
    competence,
    curve,
    gather,
    order_of,
    pairs_of,
    random_orders,
    run,
)
from saelab.circuits.features import FeatureScores
from saelab.circuits.findings import findings
from saelab.circuits.report import of_findings
from saelab.circuits.scores import Cost
from saelab.circuits.together import output_norms
from saelab.tasks import TASKS
from saelab.testing.planted_circuit import PlantedTask


@pytest.fixture(autouse=True)
def planted_task():
    TASKS.add("planted", lambda tokenizer: PlantedTask())
    yield
    TASKS.remove("planted")


def test_it_says_what_an_experiment_says(planted_lm, tmp_path):
    plan = Plan("planted", {"attribution": Entry("attribution", 8)}, seeds=1, truth_prompts=8, together=0)
    whole = findings(run(planted_lm, plan, tmp_path / "parts.json"), "x")
    tests = pairs_of("planted", PlantedTask(), 8, "test", 50_000)
    known = competence(planted_lm, tests)
    truths = {f"{at:g}": one for at, one in by_patching(METHODS["patching"]()(planted_lm, tests), known.effect).items()}
    scores = METHODS["attribution"]()(planted_lm, pairs_of("planted", PlantedTask(), 8, "train", 0))
    found = gather(planted_lm, "planted", known, truths, {"attribution": scores})
    assert found.rows[0].auc == whole.rows[0].auc
    assert found.rows[0].rank_correlation == pytest.approx(whole.rows[0].rank_correlation)
    assert (found.shape, found.kv_heads, found.model) == (whole.shape, whole.kv_heads, whole.model)
    assert found.competence.accuracy == whole.competence.accuracy
    assert list(found.truths) == list(whole.truths)
    assert found.shown == ("attribution", int(found.truth.members.sum()))
    assert (found.curves, found.together) == ({}, None)
    assert "0 prompts" not in of_findings(found)
    assert "on 8 prompts that no method saw" in of_findings(whole)


def test_curves_and_heads_ablated_together_are_taken_in(planted, planted_lm, planted_pairs):
    pairs = planted_pairs.take(torch.arange(8))
    scores = METHODS["attribution"]()(planted_lm, pairs)
    circuits = Circuits(planted_lm, pairs)
    kept = curve(circuits, order_of(scores))
    random = [curve(circuits, order, complement=False, rounds=0) for order in random_orders((3, 6), 2, 0)]
    five = ablate_together(circuits, scores.strongest(2), output_norms(planted_lm, pairs), 3, seed=0)
    known = competence(planted_lm, pairs)
    truth = by_patching(METHODS["patching"]()(planted_lm, pairs), known.effect)[CUT_OFF]
    assert torch.equal(truth.members, planted.members())
    found = gather(
        planted_lm,
        "planted",
        known,
        {"0.02": truth},
        {"a": [scores, scores], "b": scores},
        curves={"a": kept},
        random=random,
        together=five,
        circuit=("b", 4),
    )
    assert found.seeds == 2
    assert found.curves["a"]["strength"] == kept
    assert list(found.random) == random
    assert found.together == five
    assert found.shown == ("b", 4)
    assert "of as many other heads" in of_findings(found)


def test_a_circuit_of_a_method_that_is_not_there_is_refused(planted_lm, planted_pairs):
    scores = METHODS["random"]()(planted_lm, planted_pairs)
    known = competence(planted_lm, planted_pairs)
    truth = by_patching(METHODS["attribution"]()(planted_lm, planted_pairs), known.effect)
    with pytest.raises(ValueError, match="the circuit shown is of no method of the table"):
        gather(planted_lm, "planted", known, {"0.02": truth[0.02]}, {"a": scores}, circuit=("b", 4))


def test_how_many_latents_carry_a_share():
    latents = torch.tensor([0.0, -4.0, 3.0, 2.0, 1.0])
    found = FeatureScores(latents, 0.0, 0.0, 0.0, latents, latents, Cost())
    assert [found.carrying(share) for share in (0.3, 0.4, 0.5, 0.7, 0.71, 1.0)] == [1, 1, 2, 2, 3, 4]
