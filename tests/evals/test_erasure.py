"""TPP and SCR in planted worlds: perfect and random dictionaries, and a shortcut that can be ablated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saelab.evals import EVALUATORS, Subject
from saelab.evals.ablation import Examples, Question, Shortcut, perturb
from saelab.evals.base import NotMeasurable
from saelab.evals.erasure import PAIRS, Erasure
from saelab.sae import SparseCode, build
from saelab.tasks import CONCEPTS, Labelled

HOOK = "blocks.1.hook_resid_post"
N = 400


def examples(dense: torch.Tensor, W_dec: torch.Tensor, *, error: float = 0.01) -> Examples:
    """`dense @ W_dec` and a little that the dictionary does not explain; every second example is for testing."""
    noise = error * torch.randn(len(dense), W_dec.shape[1], generator=torch.Generator().manual_seed(7))
    x = (dense @ W_dec + noise).double().numpy()
    test = np.arange(len(dense)) // 4 % 2 == 0
    return Examples(x, SparseCode.from_dense(dense), W_dec, test, np.arange(len(dense)))


def one_hot_world(*, signed: bool = False) -> tuple[Examples, list[np.ndarray]]:
    """Four classes; each of the first three has a latent (and a direction) of its own, the last has none."""
    label = torch.arange(N) % 4
    dense = torch.zeros(N, 16)
    dense[:, 2:5] = torch.eye(4)[label][:, :3] * (-3 if signed else 3)
    dense[:, 9] = torch.rand(N, generator=torch.Generator().manual_seed(1))
    on = examples(dense, torch.eye(16) * (-1 if signed else 1))
    return on, [(label == c).numpy() for c in range(3)]


@pytest.mark.parametrize("signed", [False, True])
def test_a_perfect_dictionary_erases_one_class_alone(signed):
    """The class's examples look like those of none, so that its probe's accuracy falls from 1 to a half."""
    on, classes = one_hot_world(signed=signed)
    questions = [Question.of(on, positive) for positive in classes]
    assert [question.ablated(1).tolist() for question in questions] == [[2], [3], [4]]
    assert [question.judged.accuracy() for question in questions] == [1, 1, 1]
    found = perturb(questions, [question.ablated(1) for question in questions], seed=0, rounds=50)
    assert (found.tpp, found.targeted, found.others) == pytest.approx((0.5, 0.5, 0))
    assert found.low <= 0.5 <= found.high


def test_a_dictionary_that_shares_a_direction_is_not_targeted():
    on, classes = one_hot_world()
    questions = [Question.of(on, positive) for positive in classes]
    everything = [torch.tensor([2, 3, 4])] * 3
    found = perturb(questions, everything, seed=0, rounds=20)
    assert (found.targeted, found.others, found.tpp) == pytest.approx((0.5, 0.5, 0))


def test_random_latents_perturb_nothing_in_particular():
    rng = torch.Generator().manual_seed(3)
    dense = torch.rand(N, 64, generator=rng) * (torch.rand(N, 64, generator=rng) < 0.2)
    on = examples(dense, torch.nn.functional.normalize(torch.randn(64, 16, generator=rng), dim=1), error=0.5)
    classes = [(torch.arange(N) % 4 == c).numpy() for c in range(4)]
    questions = [Question.of(on, positive) for positive in classes]
    found = perturb(questions, [torch.randperm(64, generator=rng)[:5] for _ in classes], seed=0, rounds=50)
    assert found.tpp == pytest.approx(0, abs=0.05)
    assert found.low <= 0 <= found.high


def test_ablating_nothing_changes_nothing_to_the_bit():
    on, classes = one_hot_world()
    questions = [Question.of(on, positive) for positive in classes]
    nothing = torch.zeros(0, dtype=torch.long)
    found = perturb(questions, [nothing] * 3, seed=0, rounds=10)
    assert (found.tpp, found.targeted, found.others, found.low, found.high) == (0, 0, 0, 0, 0)
    absent = torch.tensor([15])  # never fires
    assert np.array_equal(questions[0].judged.correct(absent), questions[0].judged.correct())


def test_scores_after_ablation_against_dense_arithmetic():
    rng = torch.Generator().manual_seed(5)
    dense = torch.randn(N, 32, generator=rng) * (torch.rand(N, 32, generator=rng) < 0.3)  # signed
    W_dec = torch.randn(32, 16, generator=rng)
    on = examples(dense, W_dec, error=0.3)
    positive = (dense[:, 3] > 0).numpy()
    train, ablated = ~on.test, torch.tensor([3, 8, 20])
    from saelab.evals import probes

    probe = probes.logistic(on.x[train], positive[train])
    changed = on.x - (dense[:, ablated] @ W_dec[ablated]).double().numpy()
    expected = (probe.scores(changed[on.test]) > 0) == positive[on.test]
    judged = Question.of(on, positive).judged
    assert np.array_equal(judged.correct(ablated), expected)
    assert judged.accuracy(ablated) < judged.accuracy()


def shortcut_world(*, signed: bool = False) -> tuple[Examples, np.ndarray, np.ndarray]:
    """A wanted label in latents 0 and 1, along one axis; a second one in 2 and 3, along four, so that a probe prefers
    it. Signed: one latent for both poles."""
    wanted, second = torch.arange(N) % 2, torch.arange(N) // 2 % 2
    dense = torch.zeros(N, 8)
    W_dec = torch.zeros(8, 8)
    W_dec[1, 0], W_dec[3, 1:5], W_dec[7, 7] = 1, 1, 1
    W_dec[0], W_dec[2] = -W_dec[1], -W_dec[3]
    if signed:
        dense[:, 1], dense[:, 3] = 2.0 * wanted - 1, 2.0 * second - 1
    else:
        dense[:, :2], dense[:, 2:4] = torch.eye(2)[wanted], torch.eye(2)[second]
    return examples(dense, W_dec), (wanted == 1).numpy(), (second == 1).numpy()


@pytest.mark.parametrize("signed", [False, True])
def test_ablating_the_spurious_latents_restores_the_clean_probe(signed):
    on, wanted, second = shortcut_world(signed=signed)
    shortcut = Shortcut.of(on, wanted, second)
    assert shortcut.biased.accuracy() == 0.5  # right where both labels agree
    assert shortcut.clean.accuracy() == 1
    ablated = shortcut.ablated(1 if signed else 2)
    assert set(ablated.tolist()) == ({3} if signed else {2, 3})
    assert shortcut.repaired(ablated) == 1
    assert shortcut.interval(ablated, seed=0, rounds=50) == (1, 1)
    assert shortcut.repaired(torch.tensor([7])) == 0
    assert shortcut.repaired(torch.tensor([0, 1])) == 0  # the wanted ones: only the shortcut is left


def test_the_way_round_that_is_worse_off_counts():
    on, wanted, second = shortcut_world()
    concept = Labelled(
        ("a", "b"),
        torch.zeros(N, 2),
        torch.arange(N),
        torch.ones(N),
        torch.from_numpy(second).long(),
        torch.from_numpy(on.test),
        others={
            "wanted": (("no", "yes"), torch.from_numpy(wanted).long()),
            "same": (("no", "yes"), torch.from_numpy(second).long()),
            "many": (("x", "y", "z"), torch.arange(N) % 3),
        },
    )
    part = Erasure(latents=(2, 5), bootstrap_rounds=20).scr(concept, on)
    rows = part["scr"]["wanted"]
    assert [row["asked"] for row in rows] == ["the second label"] * 2
    assert [row["scr"] for row in rows] == [1, 1]
    assert (rows[0]["biased"], rows[0]["clean"], rows[0]["ablated"]) == (0.5, 1, 1)
    assert part["no_scr"] == {
        "same": "one of the four cells has 0 examples in train or in test",
        "many": "it has 3 values instead of two",
    }


def test_where_there_is_no_shortcut_nothing_is_repaired():
    on, wanted, second = shortcut_world()
    with pytest.raises(NotMeasurable, match=r"within 0\.001 of the clean one"):
        Erasure()._shortcut(replace(on, x=np.zeros((N, 2)), W_dec=torch.zeros(8, 2)), wanted, second)


# -- on a subject --------------------------------------------------------------------------------------


@pytest.fixture
def concepts():
    """Two concepts of two classes and one of three, in the store's text."""

    def letters(tokenizer, text, n, groups):
        real = torch.arange(text.tokens.shape[1]) < text.length[:, None]
        context, position = (column[:n] for column in real.nonzero(as_tuple=True))
        token = text.tokens[context, position]
        label = torch.zeros(len(token), dtype=torch.long)
        for number, group in enumerate(groups, 1):
            label[torch.isin(token, torch.tensor(tokenizer.convert_tokens_to_ids(list(group))))] = number
        names = ("rest", *groups)
        return Labelled(names, text.tokens, context, position, label, context % 2 == 0)

    made = {
        "vowel": lambda tokenizer, text, n, seed: letters(tokenizer, text, n, ["aeiou"]),
        "early": lambda tokenizer, text, n, seed: letters(tokenizer, text, n, ["abcdefgh"]),
        "three": lambda tokenizer, text, n, seed: letters(tokenizer, text, n, ["aeiou", "nrst"]),
    }
    for name, make in made.items():
        CONCEPTS.add(name, make)
    yield tuple(made)
    for name in made:
        CONCEPTS.remove(name)


def test_erasure_on_a_subject(store, lm, concepts):
    sae = build("abs_topk", 32, {"n_latents": 64, "k": 6}).sae.inference()
    subject = Subject(sae, store, HOOK, store.mask, lambda: lm)
    evaluator = EVALUATORS["erasure"](concepts=concepts, examples=280, latents=(2, 100), bootstrap_rounds=20)
    result = evaluator(subject)
    assert set(result.metrics) == {"tpp_n2", "tpp_n100"} == set(result.intervals) == set(result.meaning)
    assert set(result.charts[0].series) == {"mean", "three", PAIRS, "random latents"}
    assert result.not_measurable == {
        "scr": "it takes a concept of two classes with a second label of two whose biased probe can be repaired"
    }
    parts: dict[str, object] = {}

    def part(name, make):
        parts[name] = parts[name] if name in parts else make()
        return parts[name]

    again = [evaluator(replace(subject, part=part)) for _ in range(2)]
    assert list(parts) == [*concepts, PAIRS]
    assert again[0] == again[1] == result
    with pytest.raises(NotMeasurable, match="another hook than the one that is probed"):
        evaluator(replace(subject, target_hook="blocks.2.hook_resid_post"))
