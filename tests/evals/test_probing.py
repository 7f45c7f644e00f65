"""Probing of planted concepts: what a dictionary says of them, and what shuffled labels and noise say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from saelab.errors import SaelabError, SettingError
from saelab.evals import EVALUATORS, Subject, evaluate, probes
from saelab.evals.base import NotMeasurable
from saelab.evals.labelled import Seen, heldout_text, mean_of, measured, problems, seen
from saelab.evals.probing import Probing, chosen_latents
from saelab.sae import SparseCode, build
from saelab.tasks import CONCEPTS, Labelled

HOOK = "blocks.1.hook_resid_post"


def planted(n: int = 400, n_latents: int = 64, classes: int = 2, *, signed: bool = False) -> tuple[Seen, SparseCode]:
    """Latent `10 + c` fires on class c alone (signed: latent 10 is +1 or -1), among others that fire at random."""
    rng = torch.Generator().manual_seed(0)
    label = torch.arange(n) % classes
    dense = torch.rand(n, n_latents, generator=rng) * (torch.rand(n, n_latents, generator=rng) < 0.1)
    dense[:, 10 : 10 + classes] = torch.eye(classes)[label] * (1 + torch.rand(n, 1, generator=rng))
    if signed:
        dense[:, 10:12] = torch.stack([2.0 * label - 1, torch.zeros(n)], 1)
    W_dec = torch.nn.functional.normalize(torch.randn(n_latents, 32, generator=rng), dim=1)
    names = tuple("abcdef"[:classes])
    concept = Labelled(names, torch.zeros(n, 4), torch.arange(n), torch.ones(n), label, test=torch.arange(n) % 5 < 2)
    return Seen(concept, dense @ W_dec), SparseCode.from_dense(dense)


def reordered(found: Seen, code: SparseCode, order: Tensor) -> tuple[Seen, SparseCode]:
    columns = {key: getattr(found.concept, key)[order] for key in ("context", "position", "label", "test")}
    return Seen(replace(found.concept, **columns), found.x[order]), SparseCode.from_dense(code.to_dense()[order])


@pytest.mark.parametrize("classes", [2, 3])
def test_a_planted_latent_is_found_and_says_everything(classes):
    part = Probing(k=(1, 2, 5)).concept(*planted(classes=classes))
    for reader in ("k1", "k2", "k5"):
        assert part["readers"][reader]["accuracy"] == 1
        assert part["readers"][reader]["auc"] == 1
        assert (part["readers"][reader]["low"], part["readers"][reader]["high"]) == (1, 1)
    expected = {"b": 11} if classes == 2 else {"a": 10, "b": 11, "c": 12}
    if classes == 2:
        assert set(part["latents"]["b"][:2]) == {10, 11}
    else:
        assert {name: latents[0] for name, latents in part["latents"].items()} == expected
    assert (part["train"], part["test"]) == (240, 160)


def test_one_signed_latent_says_both_poles():
    part = Probing(k=(1,)).concept(*planted(signed=True))
    assert part["readers"]["k1"]["accuracy"] == 1
    assert part["latents"]["b"] == [10]


def test_codes_that_know_nothing_are_at_chance():
    found, code = planted(n=1000)
    dense = code.to_dense()
    dense[:, 10:12] = 0
    readers = Probing(k=(1, 5, 20)).concept(Seen(found.concept, found.x), SparseCode.from_dense(dense))["readers"]
    for reader in ("k1", "k5", "k20", "null"):
        assert readers[reader]["accuracy"] == pytest.approx(0.5, abs=0.08)
        assert readers[reader]["low"] <= 0.5 <= readers[reader]["high"]
        assert readers[reader]["auc"] == pytest.approx(0.5, abs=0.08)
    assert readers["raw"]["accuracy"] > 0.95
    assert readers["dim"]["accuracy"] > 0.9


def test_shuffled_labels_are_at_chance_however_strong_the_concept():
    nulls = [Probing(k=(5,), seed=seed).concept(*planted())["readers"]["null"]["accuracy"] for seed in range(12)]
    assert np.mean(nulls) == pytest.approx(0.5, abs=0.03)


def test_the_order_of_examples_does_not_matter():
    found, code = planted(classes=3)
    noisy = Seen(found.concept, found.x + torch.randn(found.x.shape, generator=torch.Generator().manual_seed(1)))
    code = SparseCode.from_dense(
        code.to_dense() * (torch.rand(400, 1, generator=torch.Generator().manual_seed(2)) < 0.7)
    )
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    one, two = Probing().concept(noisy, code), Probing().concept(*reordered(noisy, code, order))
    assert one["latents"] == two["latents"]
    for reader in ("k1", "k2", "k5", "k20", "raw", "dim"):
        assert one["readers"][reader]["accuracy"] == pytest.approx(two["readers"][reader]["accuracy"], abs=1e-12)
        assert one["readers"][reader]["auc"] == pytest.approx(two["readers"][reader]["auc"], abs=1e-6)
        assert one["readers"][reader]["accuracy"] < 1


def test_latents_are_chosen_on_train_examples_alone():
    found, code = planted()
    dense = code.to_dense()
    test = found.concept.test
    dense[:, 30] = torch.where(test, 9.0 * found.concept.label, 0.0)
    chosen = chosen_latents(SparseCode.from_dense(dense), found.concept.is_class(1), ~test, 5)
    assert 30 not in chosen.tolist()


def test_differences_of_means_against_dense_arithmetic():
    found, code = planted(signed=True)
    positive, train = found.concept.is_class(1), ~found.concept.test
    dense = code.to_dense().double()
    expected = dense[positive & train].mean(0) - dense[~positive & train].mean(0)
    assert torch.allclose(probes.latent_sums(code, probes.contrast(positive, train)), expected, atol=1e-12)
    latents = torch.tensor([11, 3, 10])
    assert np.array_equal(probes.columns(code, latents), dense[:, latents].numpy())


def test_cells_count_alike_in_a_contrast():
    positive = torch.tensor([True, True, True, False])
    cells = torch.tensor([0, 0, 1, 0])
    weights = probes.contrast(positive, torch.ones(4, dtype=torch.bool), cells)
    assert weights.tolist() == [0.25, 0.25, 0.5, -1]


def test_guessing_the_majority_is_worth_a_half():
    truth = np.array([0] * 90 + [1] * 10)
    assert probes.accuracy(truth == 0, truth) == 0.5


def test_a_probe_reads_raw_units():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1, 100, 0] + [0, 50, 7]
    positive = x[:, 1] > 50
    probe = probes.logistic(x, positive)
    assert ((probe.scores(x) > 0) == positive).mean() > 0.97
    assert probe.weight[2] == 0
    shifted = probes.logistic(x * 10 + 3, positive)
    assert shifted.scores(x * 10 + 3) == pytest.approx(probe.scores(x), abs=1e-3)
    means = probes.difference_in_means(np.array([[0.0], [4.0]]), np.array([False, True]))
    assert means.scores(np.array([[1.9], [2.1]])) == pytest.approx([-0.4, 0.4])


def test_intervals_resample_contexts():
    """Two contexts, one all right and one all wrong: whatever the examples' number, the mean is anywhere."""
    correct = np.array([[True] * 50 + [False] * 50])
    groups = np.tile([0, 1], 50)[None]
    context = np.repeat([0, 1], 50)
    assert probes.accuracy_interval(correct, groups, context, seed=0, rounds=200) == (0, 1)
    each = probes.accuracy_interval(correct, groups, np.arange(100), seed=0, rounds=200)
    assert each is not None
    assert each[0] > 0.35
    assert each[1] < 0.65


def test_means_of_independent_intervals():
    assert mean_of({"a": (1.0, 0.9, 1.1), "b": (0.0, -0.1, 0.1)})[0] == 0.5
    low, high = mean_of({"a": (1.0, 0.9, 1.1), "b": (0.0, -0.1, 0.1)})[1]
    assert (low, high) == pytest.approx((0.5 - 0.02**0.5 / 2, 0.5 + 0.02**0.5 / 2))


def test_classes_with_few_examples_are_left_out():
    found, _ = planted(classes=3)
    few = replace(found.concept, label=torch.where(torch.arange(400) < 3, 2, found.concept.label % 2))
    assert list(problems(few)) == ["a", "b"]
    with pytest.raises(NotMeasurable, match="none of its classes has 10 examples in train and in test: 400 in all"):
        problems(replace(few, test=torch.zeros(400, dtype=torch.bool)))


# -- on a subject --------------------------------------------------------------------------------------


@pytest.fixture
def concepts():
    """Registers concepts for a test: vowels in the store's own text, in other text, and one that cannot be."""

    def vowels(tokenizer, text, n, seed, *, own=True):
        vowel = torch.tensor(tokenizer.convert_tokens_to_ids(list("aeiou")))
        real = torch.arange(text.tokens.shape[1]) < text.length[:, None]
        context, position = real.nonzero(as_tuple=True)
        context, position = context[:n], position[:n]
        label = torch.isin(text.tokens[context, position], vowel).long()
        test, (rows, context) = context % 2 == 0, context.unique(return_inverse=True)
        tokens = text.tokens[rows] if own else torch.nn.functional.pad(text.tokens[rows], (0, 1))
        return Labelled(("no vowel", "vowel"), tokens, context, position, label, test)

    def impossible(tokenizer, text, n, seed):
        raise SaelabError("only 3 of 40 words are single tokens of this tokenizer")

    made = {"vowel": vowels, "prompted": lambda *given: vowels(*given, own=False), "impossible": impossible}
    before = list(CONCEPTS)
    for name, make in made.items():
        CONCEPTS.add(name, make)
    yield tuple(made)
    for name in made:
        CONCEPTS.remove(name)
    assert list(CONCEPTS) == before


@pytest.fixture
def subject(store, lm):
    sae = build("topk", 32, {"n_latents": 64, "k": 6}).sae.inference()
    return Subject(sae, store, HOOK, store.mask, lambda: lm)


def test_stored_text_is_looked_up_and_says_what_the_model_says(subject, concepts, store, lm):
    own, prompted = seen(subject, "vowel", 200, 0), seen(subject, "prompted", 200, 0)
    assert torch.allclose(own.x, prompted.x, atol=1e-4)
    assert torch.equal(own.concept.position, prompted.concept.position)
    assert own.concept.position.min() == 1  # the mask leaves out position 0
    assert len(own.concept) == len(own.x) < 200
    text = heldout_text(store)
    values = lm.capture(text.tokens, [lm.hook(HOOK)])[HOOK]
    assert torch.allclose(own.x, values[own.concept.context, own.concept.position], atol=1e-4)
    assert seen(subject, "vowel", 200, 0) is own
    assert seen(subject, "vowel", 200, 1) is not own


def test_a_concept_that_cannot_be_had_does_not_stop_the_others(subject, concepts):
    result = EVALUATORS["probing"](concepts=concepts, examples=250, k=(1, 5), bootstrap_rounds=20)(subject)
    assert result.not_measurable == {"impossible": "only 3 of 40 words are single tokens of this tokenizer"}
    assert result.metrics["probing_raw_accuracy"] > 0.9  # a token's own identity lies in its activation
    assert result.metrics["probing_raw_accuracy"] >= result.metrics["probing_k1_accuracy"]
    assert set(result.meaning) == set(result.metrics)
    assert set(result.charts[0].series) == {
        "k latents", "raw activations", "difference in means", "shuffled labels",
    }  # fmt: skip
    assert [row[0] for row in result.tables[0].rows] == ["vowel", "prompted"]
    with pytest.raises(NotMeasurable, match=r"no concept can be measured \(impossible: only 3 of 40"):
        EVALUATORS["probing"](concepts=("impossible",))(subject)


def test_a_concept_does_not_depend_on_the_others(subject, concepts):
    def rows(*names):
        result = EVALUATORS["probing"](concepts=names, examples=250, k=(2,), bootstrap_rounds=20)(subject)
        return {row[0]: list(row) for row in result.tables[0].rows}

    assert rows("prompted", "vowel")["vowel"] == rows("vowel")["vowel"]


def test_an_interrupted_evaluation_goes_on_with_its_next_concept(subject, concepts, tmp_path):
    calls: list[str] = []

    def broken(name):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"n": name}

    kept: dict[str, object] = {}

    def part(key, make):
        kept[key] = kept[key] if key in kept else make()
        return kept[key]

    with pytest.raises(KeyboardInterrupt):
        measured(replace(subject, part=part), ("vowel", "prompted"), broken)
    found, _ = measured(replace(subject, part=part), ("vowel", "prompted"), broken)
    assert calls == ["vowel", "prompted", "prompted"]
    assert found == {"vowel": {"n": "vowel"}, "prompted": {"n": "prompted"}}


def test_probing_in_eval_json(subject, concepts, tmp_path):
    settings = {"concepts": ["vowel"], "examples": 250, "k": [1], "bootstrap_rounds": 20}
    document = evaluate(subject, {"probing": settings}, config_sha256="a", write_to=tmp_path / "eval.json")
    assert json.loads((tmp_path / "eval.json").read_text())["evaluations"]["probing"]["metrics"]
    assert "probing_k1_accuracy" in document["evaluations"]["probing"]["intervals"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concepts": ("vovel",)}, r"concepts: unknown concept 'vovel'\n  fix: did you mean 'vowel'\?"),
        ({"k": ()}, r"k: must be at least 1, found \(\)"),
        ({"k": (0, 1)}, r"k: must be at least 1, found \(0, 1\)"),
        ({"examples": 0}, "examples: must be at least 1, found 0"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_cannot_be(concepts, settings, message):
    with pytest.raises(SettingError, match=message):
        Probing(**settings)
