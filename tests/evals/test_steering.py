"""Steering and ablation: closed forms on a linear readout, and the whole evaluator on a tiny model."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saelab.errors import SaelabError, SettingError
from saelab.evals import EVALUATORS, Subject
from saelab.evals.base import NotMeasurable
from saelab.evals.interventions import Asked, Trial, ablate, area, ask, best_effect, project_out, push, task_of
from saelab.evals.labelled import Seen
from saelab.evals.steering import Plan, Steering
from saelab.lm.mask import Mask
from saelab.lm.model import Hook
from saelab.sae import build
from saelab.tasks import CONCEPTS, TASKS, Choices, Labelled, Metric, Prompts, Split, Tokenizer

HOOK = "blocks.1.hook_resid_post"
VOCABULARY, WIDTH = 20, 8


class Readout:
    """A model whose logits are a linear map of an embedding, which is the hook."""

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(VOCABULARY, WIDTH, generator=rng)
        self.unembedding = torch.randn(WIDTH, VOCABULARY, generator=rng)
        self.edit: Any = None

    def logits(self, tokens):
        x = self.embedding[tokens]
        return (x if self.edit is None else self.edit(x, x)) @ self.unembedding

    @contextmanager
    def edited_from(self, source, hook, edit):
        self.edit = edit
        yield
        self.edit = None


@pytest.fixture
def readout() -> Any:
    return Readout()


@pytest.fixture
def trial(readout) -> Trial:
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (40, 6), generator=rng)
    said = torch.arange(40) % 2 == 1
    right = torch.stack([said, said, ~said, ~said], 1)
    prompts = Prompts(
        tokens, torch.arange(40) % 5 + 1, torch.tensor([3, 4, 5, 6]), right, ~right, {"pole": said.long()}
    )
    poles = torch.tensor([True, True, False, False]).expand(40, 4)
    text = torch.randint(1, VOCABULARY, (10, 12), generator=rng)
    counted = torch.ones(10, 12, dtype=torch.bool)
    counted[3, 8:] = False
    hook, mask = Hook("h", 0, (WIDTH,)), Mask(True, (7,), {})
    return Trial(readout, hook, hook, mask, Asked("t", prompts, poles, ~poles), text, counted)


def test_a_push_on_a_linear_readout_has_its_closed_form(trial, readout):
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
    outcome = trial.outcome(push(1.5 * direction))
    edited = trial.mask.keep_tokens(trial.asked.prompts.tokens)[torch.arange(40), trial.asked.prompts.end]
    U = readout.unembedding
    change = 1.5 * direction @ (U[:, [3, 4]].mean(1) - U[:, [5, 6]].mean(1)) * edited
    assert outcome.towards - trial.unedited.towards == pytest.approx(change.numpy(), abs=1e-4)
    sign = np.where(np.arange(40) % 2 == 1, 1, -1)
    assert outcome.right - trial.unedited.right == pytest.approx(change.numpy() * sign, abs=1e-4)

    logits = readout.embedding[trial.text].double() @ U.double()
    p, q = logits.log_softmax(-1), (logits + 1.5 * (direction @ U).double()).log_softmax(-1)
    kept = trial.mask.keep_tokens(trial.text) & trial.counted
    assert outcome.kl == pytest.approx((p.exp() * (p - q)).sum(-1)[kept].mean().item(), abs=1e-5)


def test_no_strength_has_no_effect_to_the_bit(trial):
    outcome = trial.outcome(push(torch.zeros(WIDTH)))
    assert np.array_equal(outcome.towards, trial.unedited.towards)
    assert outcome.kl == 0 == trial.unedited.kl


@pytest.mark.parametrize("kind", ["topk", "abs_topk"])
def test_ablation_takes_out_these_latents_alone(kind):
    sae = build(kind, 16, {"n_latents": 32, "k": 5}).sae.inference()
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    dense = sae.encode(x).to_dense()
    common = dense.abs().sum(0).argsort(descending=True)[:3]
    with torch.no_grad():
        assert torch.equal(ablate(sae, torch.zeros(0, dtype=torch.long))(x, x), x)
        silent = (dense != 0).sum(0) == 0
        assert torch.equal(ablate(sae, silent.nonzero()[:, 0])(x, x), x)
        expected = x - dense[:, common] @ sae.W_dec[common]
        assert torch.allclose(ablate(sae, common)(x, x), expected, atol=1e-5)


def test_projecting_out_leaves_the_mean_along_a_direction():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(torch.ones(8), dim=0)
    out = project_out(unit, x.mean(0))(x, x)
    assert torch.allclose(out @ unit, (x.mean(0) @ unit).expand(50), atol=1e-6)
    other = torch.tensor([1.0, -1, 0, 0, 0, 0, 0, 0])
    assert torch.allclose(out @ other, x @ other, atol=1e-6)


def test_the_best_effect_within_a_bound():
    assert best_effect([0.05, 0.15], [1.0, 3.0], 0.1) == pytest.approx(2)
    assert best_effect([0.05, 0.15], [1.0, -3.0], 0.1) == 1
    assert best_effect([0.02, 0.04], [1.0, 2.0], 0.1) == 2
    assert best_effect([0.2], [-1.0], 0.1) == 0  # not to push is always possible
    assert best_effect([0.2], [4.0], 0.1) == pytest.approx(2)


def test_the_mean_effect_up_to_a_bound():
    assert area([0.1], [2.0], 0.1) == pytest.approx(1)
    assert area([0.2], [4.0], 0.1) == pytest.approx(1)
    assert area([0.05], [2.0], 0.1) == pytest.approx((0.05 * 1 + 0.05 * 2) / 0.1)
    assert area([0.0, 0.0], [0.0, 0.0], 0.1) == 0


def test_the_latent_points_to_the_second_class_and_comes_from_train_examples():
    sae = build("relu", 4, {"n_latents": 8}).sae.inference()
    with torch.no_grad():
        sae.coder.get_parameter("W_enc").copy_(torch.cat([torch.eye(4), -torch.eye(4)]))
        sae.W_dec.copy_(torch.cat([torch.eye(4), -torch.eye(4)]))
    label = torch.arange(80) % 2
    x = 0.01 * torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] += 5.0 * (1 - label)  # latent 2 fires on the first class
    test = torch.arange(80) >= 40
    x[test, 1] += 50.0 * label[test]
    concept = Labelled(("first", "second"), torch.zeros(80, 1), torch.arange(80), torch.zeros(80), label, test)
    plan = Plan.of(sae, Seen(concept, x), Seen(concept, x), randoms=3, seed=0)
    assert (plan.second, int(plan.ranked[0])) == ("second", 2)
    assert torch.allclose(plan.directions["latent"], torch.tensor([[0.0, 0, -1, 0]]))
    assert torch.allclose(plan.directions["dim"], torch.tensor([[0.0, 0, -1, 0]]), atol=1e-2)
    assert torch.allclose(plan.directions["random"].norm(dim=1), torch.ones(3))
    three = replace(concept, classes=("a", "b", "c"))
    with pytest.raises(NotMeasurable, match="it has 3 classes, and steering takes two"):
        Plan.of(sae, Seen(three, x), Seen(three, x), randoms=1, seed=0)


# -- on a subject --------------------------------------------------------------------------------------


class Poles:
    """After an `a` the answer is `b`, else `c`, whatever the filler."""

    metric: Metric = "logit_difference"

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer: Any = tokenizer
        self.attributes = {"pole": ("off", "on")}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        return {"pole": torch.arange(n) % 2}

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        return choices

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        return {"pole": 1 - choices["pole"]}

    def prompts(self, choices: Choices) -> Prompts:
        texts = ["<bos>zxa" if pole else "<bos>zxo" for pole in choices["pole"].tolist()]
        ids = [self.tokenizer.convert_tokens_to_ids(["<bos>", *text[5:]]) for text in texts]
        answers = torch.tensor(self.tokenizer.convert_tokens_to_ids(["b", "c"]))
        right = torch.stack([choices["pole"] == 1, choices["pole"] == 0], 1)
        return Prompts(torch.tensor(ids), torch.full((len(ids),), 3), answers, right, ~right, choices)


@pytest.fixture
def named():
    """A concept that a task asks for, one that none does, and a task that this tokenizer does not allow."""

    def poles(tokenizer, text, n, seed):
        ids = [tokenizer.convert_tokens_to_ids(["<bos>", *f"z{'ao'[i % 2]}{chr(98 + i // 2 % 20)}"]) for i in range(n)]
        label = 1 - torch.arange(n) % 2
        test = torch.arange(n) // 2 % 2 == 0
        return Labelled(("off", "on"), torch.tensor(ids), torch.arange(n), torch.full((n,), 2), label, test)

    def impossible(tokenizer):
        raise SaelabError("no words")

    TASKS.add("impossible", impossible)
    TASKS.add("poles", Poles)
    CONCEPTS.add("pole", poles)
    CONCEPTS.add("lonely", poles)
    yield
    for name in ("impossible", "poles"):
        TASKS.remove(name)
    for name in ("pole", "lonely"):
        CONCEPTS.remove(name)


@pytest.mark.parametrize("target", [None, "blocks.2.hook_resid_post"])
def test_steering_on_a_subject(store, lm, named, target, monkeypatch):
    if target is not None:  # a transcoder's output hook, of the same statistics
        monkeypatch.setitem(store.manifest["hooks"], target, store.manifest["hooks"][HOOK])
        monkeypatch.setitem(store.manifest["scaling"], target, store.manifest["scaling"][HOOK])
    sae = build("topk", 32, {"n_latents": 64, "k": 6}).sae.inference()
    subject = Subject(sae, store, HOOK, store.mask, lambda: lm, target_hook=target)
    evaluator = EVALUATORS["steering"](
        concepts=("pole", "lonely"), examples=100, prompts=6, contexts=3, context_tokens=10, strengths=(0.0, 0.2, 0.5),
        latents=(1, 3), bootstrap_rounds=20, max_kl=0.01,
    )  # fmt: skip
    result = evaluator(subject)
    assert result.not_measurable["lonely"].startswith("no task asks for it")
    assert result.metrics["steering_dim_effect"] >= result.metrics["steering_dim_area"]
    points = result.charts[0].series["latent"]
    assert list(points[1]) == [0, 0, 0, 0]
    kls = [float(point[0]) for point in points]
    assert kls[3] > kls[2] > 0
    ablations = {name for name in result.metrics if name.startswith("ablation_")}
    assert ablations == {"ablation_latent_n1", "ablation_latent_n3", "ablation_random_n3", "ablation_dim_n1"}
    assert set(result.meaning) == set(result.metrics)
    assert [len(table.columns) for table in result.tables] == [len(table.rows[0]) for table in result.tables]


def test_tasks_are_found_by_attribute(lm, named):
    name, task = task_of(lm, "pole")
    assert name == "poles"
    asked = ask(name, task, "pole", "on", 6, 0)
    assert asked.positive.tolist() == [[True, False]] * 6
    assert ask(name, task, "pole", "off", 6, 0).positive.tolist() == [[False, True]] * 6
    with pytest.raises(NotMeasurable, match=r"no task asks for it.*impossible: no words"):
        task_of(lm, "polo")
    monotone = Poles(lm.tokenizer)
    both = monotone.prompts({"pole": torch.arange(6) % 2})
    monotone.prompts = lambda choices: replace(both, right=torch.ones(6, 2, dtype=torch.bool))
    with pytest.raises(NotMeasurable, match="the answers of task 'poles' do not depend on it"):
        ask("poles", monotone, "pole", "on", 6, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strengths": ()}, r"strengths: must ascend from 0 or more, found \[\]"),
        ({"strengths": (0.2, 0.1)}, r"strengths: must ascend from 0 or more, found \[0\.2, 0\.1\]"),
        ({"max_kl": 0.0}, r"max_kl: must be above 0, found 0\.0"),
        ({"latents": (0,)}, "latents: must be at least 1"),
        ({"concepts": ("nothing",)}, "concepts: unknown concept 'nothing'"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(SettingError, match=message):
        Steering(**settings)
