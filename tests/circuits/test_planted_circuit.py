"""Every method on a circuit that is known: what finds it, and what is fooled."""

from __future__ import annotations

import pytest
import torch

from saelab.circuits import METHODS, Circuits, Truth, competence, curve, order_of, random_orders, rank
from saelab.circuits.dictionary import DictionarySpec
from saelab.circuits.faithfulness import area
from saelab.circuits.ranking import auc
from saelab.circuits.together import matched_sets
from saelab.testing.planted_circuit import PlantedTask, words


def truth(planted, *others):
    """The circuit, among the circuit and these distractors alone, as (scores -> AUC)."""
    members = planted.members()
    shown = members | torch.stack([planted.mark(heads) for heads in others]).any(0)
    return lambda scores: auc(scores.strength[shown].double().numpy(), members[shown].numpy())


def test_the_model_does_the_task(planted_lm, planted_pairs):
    found = competence(planted_lm, planted_pairs, at_least=0.99)
    assert found.clean > 2 > 0.5 > found.corrupted


@pytest.mark.parametrize(
    ("method", "at_least"),
    [
        ("patching", 0.99),
        ("denoising", 0.99),
        ("mean_ablation", 0.99),
        ("attribution", 0.95),
        ("eap", 0.95),
        ("eap_ig", 0.95),
    ],
)
def test_what_intervenes_or_asks_the_gradient_finds_the_circuit(method, at_least, planted, planted_lm, planted_pairs):
    scores = METHODS[method]()(planted_lm, planted_pairs)
    found = rank(scores, Truth("planted", planted.members()))
    assert found.auc is not None
    assert found.auc >= at_least
    assert found.precision[6] == 1


def test_signs_say_who_helps(planted, planted_lm, planted_pairs):
    scores = METHODS["patching"]()(planted_lm, planted_pairs).heads
    for role, heads in planted.circuit.items():
        assert all((scores[head] < 0) == (role == "denier") for head in heads)


def test_direct_attribution_sees_the_last_heads_alone(planted, planted_lm, planted_pairs):
    scores = METHODS["direct"]()(planted_lm, planted_pairs).heads
    last = planted.mark([*planted.circuit["speaker"], *planted.circuit["denier"]])
    assert scores[last].abs().min() > 1
    assert scores[~last].abs().max() < 1e-3


def test_edges_are_those_that_were_planted(planted, planted_lm, planted_pairs):
    edges = METHODS["eap"]()(planted_lm, planted_pairs).edges
    assert edges is not None
    name = {role: [f"a{layer}.h{head}" for layer, head in heads] for role, heads in planted.circuit.items()}
    heard = {
        "marker": {f"{copier}<k>" for copier in name["copier"]},
        "copier": {f"{head}<v>" for head in name["speaker"] + name["denier"]},
        "speaker": {"logits"},
        "denier": {"logits"},
    }
    for role, heads in name.items():
        for head in heads:
            row = edges.values[edges.sources.index(head)].abs()
            strong = {edges.targets[i] for i in (row > 0.1 * row.max()).nonzero()[:, 0].tolist()}
            assert strong == heard[role]


@pytest.fixture(scope="module")
def codes(planted_lm, planted_pairs):
    """Ours, with what chance gives taken off."""
    quick = DictionarySpec(epochs=150, lr=4e-3, sparsity=0.01, unit_columns=True, scaled=True)
    return METHODS["sparse_codes"](errors=3.0, dictionary=quick)(planted_lm, planted_pairs)


def test_correlation_is_fooled_by_heads_that_tell_and_do_nothing(codes, planted, planted_lm, planted_pairs):
    """Why a method that never intervenes has to be checked by one that does."""
    fooled = truth(planted, planted.correlated)
    assert fooled(METHODS["mean_difference"]()(planted_lm, planted_pairs)) < 0.5
    assert fooled(codes) < 0.5
    assert fooled(METHODS["patching"]()(planted_lm, planted_pairs)) == 1


def test_codes_tell_the_circuit_from_what_is_inert_or_varied(codes, planted):
    assert truth(planted, planted.inert, planted.varied)(codes) >= 0.99


def test_without_errors_taken_off_what_is_varied_is_thought_something_of(planted, planted_lm, planted_pairs):
    quick = DictionarySpec(epochs=20, lr=4e-3, unit_columns=True, scaled=True)
    raw, clear = (
        METHODS["sparse_codes"](errors=errors, strongest=True, dictionary=quick)(planted_lm, planted_pairs).heads
        for errors in (0.0, 3.0)
    )
    assert raw[planted.mark(planted.varied)].max() > 0.1
    assert clear[planted.mark(planted.varied)].max() < 0.1 * raw[planted.mark(planted.varied)].max()


def test_the_circuit_alone_does_the_task_and_nothing_is_left_without_it(planted, planted_lm, planted_pairs):
    circuits = Circuits(planted_lm, planted_pairs)
    scores = METHODS["patching"]()(planted_lm, planted_pairs)
    shares = (0.0, 1 / 6 + 0.01, 1 / 3 + 0.01, 1.0)
    found = curve(circuits, order_of(scores), shares=shares, rounds=50)
    assert found.sizes == (0, 3, 6, 18)
    assert found.faithfulness[0] == 0
    assert found.faithfulness[2] == pytest.approx(1, abs=0.02)
    assert found.faithfulness[3] == 1
    assert found.completeness[2] == pytest.approx(0, abs=0.02)
    assert found.intervals[2] is not None
    assert found.intervals[2][0] <= found.faithfulness[2] <= found.intervals[2][1]
    assert found.cpr == pytest.approx(area(shares, found.faithfulness))
    for order in random_orders((3, 6), 3, seed=0):
        other = curve(circuits, order, shares=shares, rounds=0, complement=False)
        assert other.cpr < found.cpr
        assert other.cmd > found.cmd


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_other_ablations(ablation, planted, planted_lm, planted_pairs):
    circuits = Circuits(planted_lm, planted_pairs, ablation)
    found = curve(
        circuits, order_of(METHODS["patching"]()(planted_lm, planted_pairs)), shares=(0.0, 0.34, 1.0), rounds=0
    )
    assert found.ablation == ablation
    assert found.faithfulness == pytest.approx((0, 1, 1), abs=0.03)


def test_the_strongest_heads_together(planted, planted_lm, planted_pairs):
    from saelab.circuits import ablate_together

    circuits = Circuits(planted_lm, planted_pairs)
    helping = [head for role, heads in planted.circuit.items() if role != "denier" for head in heads][:5]
    found = ablate_together(circuits, helping, torch.ones(3, 6), sets=6, seed=0)
    assert found.loss > 1.5
    assert len(found.matched) == 6
    assert max(found.matched) < found.loss


def test_matched_sets_are_of_other_heads_like_them():
    norms = torch.linspace(0.5, 2, 40).view(5, 8)
    heads = [(1, 2), (4, 4)]
    for chosen in matched_sets(heads, norms, sets=10, seed=0, nearest=3):
        assert len(set(chosen) | set(heads)) == 4
        for (layer, head), (other, which) in zip(heads, chosen, strict=True):
            assert abs(layer - other) <= 1
            assert 0.7 < norms[layer, head] / norms[other, which] < 1.4


def test_its_prompts_as_text_are_read_back(planted_lm):
    task = PlantedTask()
    texts = words(task, 6, seed=3)
    choices = task.draw(3, "train", 3)
    tokens = torch.cat([task.prompts(choices).tokens, task.prompts(task.corrupted(choices, 4)).tokens])
    read = planted_lm.tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert torch.equal(torch.tensor(read), tokens[:, 1:])
