"""Supervised dictionaries and SAEs: planted attributes with a linear readout, and a tiny model of words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.evals import EVALUATORS, Subject, evaluate
from saelab.evals.base import NotMeasurable
from saelab.evals.supervised import Supervised, coders, present, section, sites, study
from saelab.evals.supervised.coders import of_sae, trained_on
from saelab.evals.supervised.detectors import KINDS, Examples, Tally, describe, detect, detectors, skill
from saelab.evals.supervised.dictionary import AttributeDictionary, fit
from saelab.evals.supervised.edits import greedy, term_weights
from saelab.evals.supervised.section import Measured
from saelab.evals.supervised.study import Attribute, Coder, Study
from saelab.evals.supervised.work import Sizes, Work
from saelab.lm.model import ModelSpec, load
from saelab.sae import SAE, build
from saelab.tasks import TASKS, Answers
from saelab.testing.tiny import tiny_model

NAMES, D = 12, 32
SIZES = {"IO": NAMES, "S": NAMES, "position": 2}
EVEN = NAMES * (NAMES - 1) * 2
"""Examples in which every combination occurs once."""
HOOK = "blocks.1.hook_resid_post"


# -- planted: activations are sums of attributes -------------------------------------------------------


def rows_of(strength: Sequence[float] = (1.0, 1.0, 1.0)) -> Tensor:
    """`[latent, d]`: orthogonal directions for the values of IO, of S and of position, each with its own norm."""
    rng = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(D, sum(SIZES.values()), generator=rng)).Q.T
    return directions * torch.tensor(strength).repeat_interleave(torch.tensor(list(SIZES.values())))[:, None]


def labels_of(n: int, seed: int = 0) -> dict[str, Tensor]:
    """IO and S differ; every combination is as frequent as any other."""
    turn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    io, distance = turn % NAMES, 1 + turn // NAMES % (NAMES - 1)
    return {"IO": io, "S": (io + distance) % NAMES, "position": turn // (EVEN // 2) % 2}


def sums(labels: dict[str, Tensor], rows: Tensor) -> Tensor:
    """`[example, d]`."""
    starts = {"IO": 0, "S": NAMES, "position": 2 * NAMES}
    return 3.0 + sum((rows[start + labels[name]] for name, start in starts.items()), torch.zeros(D))


def planted(labels: dict[str, Tensor], rows: Tensor) -> Study:
    """A model that reads IO for, S against each name, and prefers even names where position is 1."""
    even, favour = (torch.arange(NAMES) % 2 == 0).float(), 0.01 * torch.arange(NAMES)
    readout = (rows[:NAMES] - rows[NAMES:-2]).T + 1.5 * rows[-1][:, None] * even

    def run(values: Any) -> Answers:
        value = activations if values is None else values[0]
        logits = (value - 3.0) @ readout + favour
        return Answers(logits, logits.argmax(1))

    def score(answers: Answers) -> Tensor:
        right, wrong = (answers.log_probs.gather(1, labels[name][:, None]) for name in ("IO", "S"))
        return (right - wrong)[:, 0]

    activations = sums(labels, rows)
    changed = {}
    for name, size in SIZES.items():
        other = dict(labels)
        other[name] = (labels[name] + 1) % size
        if name != "position":  # IO and S stay apart
            other[name] = torch.where(other["IO"] == other["S"], (labels[name] + 2) % size, other[name])
        changed[name] = (other, [sums(other, rows)])
    return Study(run, score, labels, [activations], [sums(labels_of(EVEN), rows).mean(0)], changed)


def sae_of(rows: Tensor) -> SAE:
    """Latent i fires at 1 where the value of row i is present, and writes it."""
    sae = build("relu", D, {"n_latents": len(rows)}).sae
    unit = rows / rows.square().sum(1, keepdim=True)
    with torch.no_grad():
        sae.coder.get_parameter("W_enc").copy_(unit)
        sae.W_dec.copy_(rows)
        sae.b_dec.fill_(3.0)
        offset = torch.zeros(len(rows)) if sae.coder.centred else 3.0 * unit.sum(1)
        sae.coder.get_parameter("b_enc").copy_(-1e-4 - offset)
    return sae.inference()


@pytest.fixture
def rows() -> Tensor:
    return rows_of()


@pytest.fixture
def world(rows) -> Study:
    return planted(labels_of(60, seed=1), rows)


@pytest.fixture
def fitted(rows) -> AttributeDictionary:
    labels = labels_of(EVEN)
    return fit(sums(labels, rows), labels, SIZES, "mse")


def test_least_squares_recover_sums_of_attributes_and_means_nearly(rows):
    labels, held = labels_of(EVEN), labels_of(60, seed=1)
    activations, noise = sums(labels, rows), 0.1 * torch.randn(EVEN, D, generator=torch.Generator().manual_seed(0))
    least = fit(activations, labels, SIZES, "mse").write(held).recon
    assert torch.allclose(least, sums(held, rows), atol=1e-4)
    means = fit(activations, labels, SIZES, "mean").write(held).recon
    error = (means - sums(held, rows)).square().sum() / (sums(held, rows) - activations.mean(0)).square().sum()
    assert float(error) < 0.1  # names that exclude each other are not independent
    noisy = fit(activations + noise, labels, SIZES, "mse").write(held).recon
    assert (noisy - sums(held, rows)).square().mean().sqrt() < 0.05


def test_values_that_never_occur_are_written_as_the_mean(rows):
    labels = {name: label[:30] for name, label in labels_of(EVEN).items()}
    labels["position"] = torch.zeros(30, dtype=torch.int64)
    for how in ("mse", "mean"):
        assert fit(sums(labels, rows), labels, SIZES, how).rows[-1].abs().max() < 1e-5


@pytest.mark.parametrize("made", ["supervised", "sae"])
def test_what_is_made_of_attributes_approximates_at_1(world, fitted, rows, made):
    coder = Coder.of(fitted) if made == "supervised" else of_sae(sae_of(rows))
    base = study.baseline(world)
    assert abs(base.effect) > 0.5
    recon = [coder.write(world.values[0], world.labels).recon]
    assert study.sufficiency(world, base, recon).value == pytest.approx(1, abs=1e-3)
    assert study.necessity(world, base, recon).value == pytest.approx(1, abs=1e-3)


def test_the_mean_approximates_nothing(world):
    base = study.baseline(world)
    mean = [world.mean[0].expand_as(world.values[0])]
    assert study.sufficiency(world, base, mean).value == pytest.approx(0, abs=1e-5)  # IO and S are balanced
    assert study.necessity(world, base, mean).value == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", list(SIZES))
def test_edits_of_planted_attributes_are_the_truth(world, fitted, rows, name):
    attribute = Attribute.of(world, name)
    base = study.baseline(world)
    none = study.no_edit(world, base, attribute)
    assert none.agreement.value < (0.9 if name != "S" else 1.01)  # nobody gives to himself, whoever it is
    assert (none.distance, none.latents) == (1, None)
    exact = study.supervised_edit(world, attribute, [fitted])
    assert (exact.agreement.value, exact.agreement_token, exact.latents) == (1, 1, 2)
    assert exact.distance == pytest.approx(0, abs=1e-4)
    assert study.ground_truth(world, attribute).agreement.value == 1
    for coder in (Coder.of(fitted), of_sae(sae_of(rows))):
        found = study.sparse_edits(world, attribute, [coder], [1, 2, 8])
        assert found[2].agreement.value == 1
        assert found[2].score == pytest.approx(exact.score, abs=1e-3)
        assert found[2].latents == found[8].latents == 2  # what does not help is left out
        assert found[1].distance == pytest.approx(0.6, abs=0.15)
    assert exact.weight == pytest.approx(1 / 3, abs=0.15)


def test_an_edit_with_no_latents_is_the_baseline_to_the_bit(world, rows):
    attribute, base = Attribute.of(world, "IO"), study.baseline(world)
    zero = study.sparse_edits(world, attribute, [of_sae(sae_of(rows))], [0])[0]
    assert replace(zero, latents=None, weight=None) == study.no_edit(world, base, attribute)
    assert (zero.latents, zero.weight) == (0, 0)


@pytest.mark.parametrize("kind", ["topk", "abs_topk", "relu"])
def test_greedy_edits_come_nearer_with_every_latent(world, kind):
    torch.manual_seed(0)
    sae = build(kind, D, {"n_latents": 96} | ({} if kind == "relu" else {"k": 6})).sae
    with torch.no_grad():
        sae.b_dec.copy_(world.mean[0])
    coder, source, target = of_sae(sae.inference()), world.values[0], world.changed["S"][1][0]
    written = [coder.write(x, world.labels) for x in (source, target)]
    found = greedy(source, target, written[0], written[1], coder.rows, range(13))
    assert torch.equal(found[0].activations, source)
    for fewer, more in zip(range(12), range(1, 13), strict=True):
        assert (found[more].distance <= found[fewer].distance).all()
        assert (found[more].used <= more).all()
        assert (found[more].weight.isfinite()).all()
    assert found[12].distance.sum() < found[0].distance.sum()
    for k, edit in found.items():
        assert torch.allclose((target - edit.activations).norm(dim=1), edit.distance), k


def test_an_attribute_that_changes_nothing_at_a_site_has_no_distance(world):
    still = replace(world, changed={"S": (world.labels, world.values)})
    assert study.ground_truth(still, Attribute.of(still, "S")).distance is None


def test_weights_of_terms_add_up_to_1(fitted):
    weights = term_weights(fitted.write(labels_of(60)), fitted.rows)
    assert weights.shape == (60, 3)
    assert torch.allclose(weights.sum(1), torch.ones(60), atol=1e-5)


# -- what latents stand for ----------------------------------------------------------------------------


def sides(active: Tensor, labels: dict[str, Tensor]) -> tuple[Examples, Examples]:
    """Even examples to choose on, odd ones to judge on."""
    return tuple(Examples(active[i::2], {name: label[i::2] for name, label in labels.items()}) for i in (0, 1))  # type: ignore[return-value]


def test_f1_is_its_closed_form():
    active = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 1]]).bool()
    tally = Tally.of(active, torch.tensor([0, 0, 1, 1]), 2)
    assert tally.f1().flatten().tolist() == pytest.approx([4 / 5, 0, 2 / 5, 2 / 5, 0, 4 / 5])
    assert tally.always().tolist() == pytest.approx([2 / 3, 2 / 3])
    assert skill(torch.tensor([2 / 3, 1.0, 0.0]), torch.tensor(2 / 3)).tolist() == pytest.approx([0, 1, -2])


def test_planted_latents_are_found_and_stand_for_their_values(rows):
    labels = labels_of(4 * EVEN)
    codes = sae_of(rows).encode(sums(labels, rows)).to_dense()
    both = sides(detectors(codes), labels)
    for name, size in SIZES.items():
        found = detect(*both, name, size)
        assert found.f1.tolist() == found.skill.tolist() == found.union_f1.tolist() == [1] * size
        assert found.pure.tolist() == [1] * size
    described = describe(*both, SIZES)
    assert described.skill.tolist() == [1] * len(rows)
    assert described.kind.tolist() == [0] * len(rows)


def test_signed_latents_are_two_detectors():
    labels = {"position": torch.arange(40) % 2}
    codes = (2.0 * labels["position"] - 1)[:, None]
    active = detectors(codes)
    assert active.shape == (40, 2)
    assert detect(*sides(active, {"position": torch.arange(40) // 2 % 2}), "position", 2).f1.shape == (2,)
    described = describe(Examples(active, labels), Examples(active, labels), {"position": 2})
    assert described.skill.tolist() == [1, 1]


def test_unions_and_values_together_are_recognised():
    labels = labels_of(4 * EVEN)
    io, position = labels["IO"], labels["position"]
    active = torch.stack([(io == 2) & (position == 1), (io == 1) | (io == 4) | (io == 5), io == 3, io >= 0], 1)
    described = describe(*sides(active, labels), SIZES)
    assert [KINDS[kind] for kind in described.kind[:3]] == ["two values together", "several values", "value"]
    assert described.f1[:3].tolist() == [1, 1, 1]
    assert described.skill[3] == pytest.approx(0)  # it always fires, which has an F1 of 2/3 for a position


def test_a_random_dictionary_fails(rows):
    labels = labels_of(4 * EVEN)
    noisy = sums(labels, rows) + 0.05 * torch.randn(4 * EVEN, D, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    random = build("topk", D, {"n_latents": 96, "k": 3}).sae
    with torch.no_grad():
        random.b_dec.copy_(noisy.mean(0))
    both = sides(detectors(random.inference().encode(noisy).to_dense()), labels)
    described = describe(*both, SIZES)
    alive = described.skill[described.alive]
    assert len(alive) > 60
    assert (alive >= 0.6).float().mean() < 0.2
    assert alive.mean() < 0.4
    for name, size in SIZES.items():
        assert detect(*both, name, size).skill.mean() < 0.5
    shuffled = describe(both[0].shuffled(0), both[1].shuffled(0), SIZES)
    assert shuffled.skill.mean().abs() < 0.05
    assert (shuffled.skill >= 0.6).sum() == 0


def test_over_splitting_shows_as_many_pure_latents_whose_union_is_good():
    part = torch.randint(12, (2400,), generator=torch.Generator().manual_seed(0))
    labels = {"position": torch.arange(2400) // 2 % 2}
    active = torch.nn.functional.one_hot(labels["position"] * 12 + part, 24).bool()
    found = detect(*sides(active, labels), "position", 2, union=12)
    assert found.pure.tolist() == [12, 12]
    assert found.f1.max() < 0.25
    assert found.union_f1.tolist() == pytest.approx([1, 1])


def test_occlusion_is_an_attribute_that_matters_and_that_no_latent_stands_for(rows):
    loud = rows_of((5.0, 0.5, 1.0))
    labels = labels_of(4 * EVEN)
    codes = sae_of(loud[:NAMES]).encode(sums(labels, loud)).to_dense()  # it knows the loud attribute alone
    both = sides(detectors(codes), labels)
    skills = {name: float(detect(*both, name, size).skill.mean()) for name, size in SIZES.items()}
    assert skills["IO"] > 0.9
    assert skills["S"] < 0.3
    assert present.occluded(skills["S"], effect=2.0, largest=3.0)
    assert not present.occluded(skills["S"], effect=1.0, largest=3.0)  # it does not matter
    assert not present.occluded(skills["IO"], effect=3.0, largest=3.0)


def trained(x: Tensor, k: int, n_latents: int) -> Tensor:
    """Codes of a TopK SAE trained on `[example, d]`, as detectors."""
    like = build("topk", x.shape[1], {"n_latents": n_latents, "k": k}).sae.inference()
    return detectors(trained_on(x, like, n_latents, seed=0).encode(x).to_dense())


@pytest.mark.slow
def test_a_loud_attribute_occludes_another_until_it_is_turned_down(monkeypatch):
    """Makelov et al.: the SAE learns IO alone where IO is loud, and S, too, once it is not."""
    monkeypatch.setattr(coders, "STEPS", 200)
    labels = labels_of(4 * EVEN)
    found = {}
    for loudness in (5.0, 1.0):
        both = sides(trained(sums(labels, rows_of((loudness, 1.0, 0.0))), 2, 24), labels)
        found[loudness] = {name: float(detect(*both, name, NAMES).skill.mean()) for name in ("IO", "S")}
    assert found[5.0]["IO"] > 0.85
    assert found[5.0]["S"] < 0.1
    assert min(found[1.0].values()) > 0.5


@pytest.mark.slow
def test_two_gaussians_are_split_into_many_latents(monkeypatch):
    """Makelov et al.: one bit, and ten latents for each of its values."""
    monkeypatch.setattr(coders, "STEPS", 200)
    position = torch.arange(4000) // 2 % 2
    x = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    x[:, 0] += 6 * (2 * position - 1)
    found = detect(*sides(trained(x, 4, 64), {"position": position}), "position", 2)
    assert found.pure.min() >= 8
    assert found.union_f1.min() > 0.99
    assert found.f1.max() < 0.98


# -- on a tiny model -----------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "train_prompts": 32,
    "test_prompts": 8,
    "judged_prompts": 16,
    "edits": (1, 4),
    "task_latents": 16,
    "min_accuracy": 0.0,
    "mark": "S2",
}
HEADS = "blocks.1.attn.hook_z[0]@S2 + blocks.2.attn.hook_z[3]@end"


@pytest.fixture(scope="module")
def word_lm(tmp_path_factory):
    directory = tiny_model(tmp_path_factory.mktemp("models") / "words", words=True)
    return load(ModelSpec(str(directory), dtype="float32", device="cpu"))


@pytest.fixture
def quick(monkeypatch) -> None:
    """Task SAEs see a few batches."""
    monkeypatch.setattr(coders, "STEPS", 3)
    monkeypatch.setattr(section, "MIN_EFFECT", 0.0)  # a model of random weights does no task


@pytest.fixture
def subject(store, word_lm) -> Subject:
    sae = build("topk", 32, {"n_latents": 64, "k": 6}).sae.inference()
    return Subject(sae, store, HOOK, store.mask, lambda: word_lm)


def work_of(lm, text: str) -> tuple[Work, sites.Section]:
    places = sites.parse(text)
    return Work(lm, TASKS["ioi"](lm.tokenizer), Sizes(16, 8, 8, seed=0), places), places


def test_sites_are_read_and_replaced_where_they_are(word_lm):
    work, places = work_of(word_lm, HEADS)
    prompts = work.prompts["test"]
    values = work.values("test", places)
    hooks = [word_lm.hook(site.hook) for site in places]
    carried = word_lm.capture(prompts.tokens, hooks)
    rows = torch.arange(8)
    assert torch.allclose(values[0], carried[hooks[0].name][rows, prompts.marks["S2"]][:, :8])
    assert torch.allclose(values[1], carried[hooks[1].name][rows, prompts.end][:, 24:])
    changed = [value + 1 for value in values]
    with sites.replacing(word_lm, prompts, places, changed)(slice(0, 8)):
        edited = word_lm.capture(prompts.tokens, [word_lm.hook("blocks.1.attn.hook_z")])["blocks.1.attn.hook_z"]
    before = carried["blocks.1.attn.hook_z"]
    assert torch.allclose(edited[rows, prompts.marks["S2"], :8], changed[0])
    edited[rows, prompts.marks["S2"], :8] = before[rows, prompts.marks["S2"], :8]
    assert torch.equal(edited, before)


def test_putting_back_what_was_there_changes_nothing_to_the_bit(word_lm):
    for text in (HEADS, f"{HOOK}@end", f"{HOOK}@S1 + {HOOK}@S2"):
        work, places = work_of(word_lm, text)
        again = work.answers(places, work.values("test", places))
        assert torch.equal(again.log_probs, work.clean.log_probs)
        found = work.study(places)
        attribute, base = Attribute.of(found, "position"), study.baseline(found)
        sae = build("topk", found.values[0].shape[1], {"n_latents": 64, "k": 6}).sae.inference()
        zero = study.sparse_edits(found, attribute, [of_sae(sae)] * len(places), [0])[0]
        assert replace(zero, latents=None, weight=None) == study.no_edit(found, base, attribute)


@pytest.mark.slow
def test_the_evaluator_on_a_tiny_model(subject, quick):
    evaluator = EVALUATORS["supervised"](**SETTINGS, sites=(HEADS, f"{HOOK}@S2", f"{HOOK}@end"))
    told: list[tuple[int, int]] = []
    result = evaluator(replace(subject, report=lambda done, total: told.append((done, total))))
    assert set(result.meaning) == set(result.metrics)
    assert {"sufficiency", "supervised_necessity", "edit_4_position", "unedited_IO", "f1_S"} <= set(result.metrics)
    assert [record["section"] for record in result.details["sections"]] == [f"{HOOK}@S2", HEADS, f"{HOOK}@end"]
    assert all(len(row) == len(table.columns) for table in result.tables for row in table.rows)
    overview = result.tables[0]
    labels = [(row[0], row[2]) for row in overview.rows]
    start = [row[0] for row in overview.rows].index(HEADS)
    assert labels[start : start + 4] == [
        (HEADS, "supervised, least squares"),
        (None, "supervised, means"),
        (None, "SAE of the task, 4 latents"),
        (None, "no edit"),
    ]
    json.dumps([result.metrics, result.details, [table.rows for table in result.tables], result.charts[0].series])
    assert told[-1][0] == told[-1][1] == max(done for done, _ in told)  # foretold to the prompt
    assert len(told) > 50


@pytest.mark.slow
def test_another_task_at_the_only_position_it_marks(subject, quick):
    evaluator = replace(Supervised(**SETTINGS), task="agreement", mark=None, task_latents=0)
    result = evaluator(subject)
    assert set(result.details["effect_by_position"]) == {"end"}
    assert result.details["sections"][0]["section"] == f"{HOOK}@end"
    assert {"edit_4_number", "supervised_edit_distractor", "f1_number"} <= set(result.metrics)
    assert not any("SAE of the task" in str(row) for table in result.tables for row in table.rows)


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_with_its_next_part(subject, quick, tmp_path):
    chosen = {"supervised": SETTINGS | {"sites": (HEADS,)}}
    whole = evaluate(subject, chosen, config_sha256="a", write_to=tmp_path / "whole.json")

    path = tmp_path / "eval.json"

    def parts() -> set[str]:
        return set(json.loads(path.read_text())["unfinished"].get("supervised", {}).get("parts", ()))

    def stop(name: str, done: int, total: int) -> None:
        if len(parts()) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(subject, chosen, config_sha256="a", write_to=path, report=stop)
    assert parts() == {"model", f"{HOOK}@S2"}
    runs: list[int] = []
    again = evaluate(
        subject, chosen, config_sha256="a", write_to=path, report=lambda name, done, total: runs.append(done)
    )
    found, expected = (document["evaluations"]["supervised"] for document in (again, whole))
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    assert again["unfinished"] == {}
    read = 32 + 16 + 8 * (1 + 3)
    assert runs[-1] == read + 8 * (1 + Measured.passes(3, 1, 2))  # the second section alone, and the model as it is


def test_a_section_that_holds_nothing_of_the_task_is_named(subject, word_lm):
    work, places = work_of(word_lm, "blocks.2.hook_resid_post@S2")  # after the last layer nothing reads S2
    record = Measured(work, places, {}, (1,)).record()
    assert record["effect"] == pytest.approx(0, abs=1e-5)
    assert "approximation" not in record
    result = present.result("ioi", {"accuracy": 1.0, "score": 2.0, "effects": {"S2": 0.0}}, [record], 8)
    assert result.not_measurable == {
        "blocks.2.hook_resid_post@S2": "with it at its mean the score changes by 0.0%, less than 10%: "
        "it holds too little of the task"
    }
    assert set(result.metrics) == {"task_accuracy", "task_score", "site_effect"}


def test_an_sae_that_cannot_be_trained_on_the_task_is_missing_with_the_reason(subject, word_lm, quick):
    def impossible(values):
        raise NotMeasurable("no SAE like this one")

    work, places = work_of(word_lm, f"{HOOK}@S2")
    record = Measured(work, places, {"sae": lambda _: of_sae(subject.sae), "task_sae": impossible}, (1,)).record()
    assert record["missing"] == {"task_sae": "no SAE like this one"}
    assert "task_sae" not in record["approximation"]
    result = present.result("ioi", {"accuracy": 1.0, "score": 2.0, "effects": {}}, [record], 8)
    assert result.not_measurable == {f"SAE of the task at {HOOK}@S2": "no SAE like this one"}


def test_an_sae_that_needs_gradients_is_not_trained_on_the_task(quick):
    like = build("gradient_topk", D, {"n_latents": 32, "k": 4}).sae
    with pytest.raises(NotMeasurable, match=r"no SAE like this one could be trained on the task: .*loss_grad"):
        trained_on(torch.randn(50, D), like, 16, seed=0)


def test_what_cannot_be_measured(subject, lm):
    sae = subject.sae
    with pytest.raises(NotMeasurable, match="a transcoder's output cannot stand in for what it reads"):
        Supervised()(replace(subject, target_hook="blocks.2.hook_resid_post"))
    with pytest.raises(NotMeasurable, match=r"answers .* of 'ioi' rightly, below 101%"):
        replace(Supervised(**SETTINGS), min_accuracy=1.01)(subject)
    with pytest.raises(NotMeasurable, match="names"):
        Supervised()(Subject(sae, subject.store, HOOK, subject.mask, lambda: lm))  # a model of characters


def test_errors_name_the_place(subject, word_lm):
    refused: list[tuple[dict[str, Any], str]] = [
        ({"task": "iot"}, r"unknown task 'iot'\n  fix: did you mean 'ioi'"),
        ({"sites": ("blocks.1",)}, r"sites: 'blocks.1' is not a site\n  fix: write blocks.18.hook_resid_post@S2 or"),
        ({"edits": (4, 2)}, r"edits: one or more numbers that rise from 1 on, found \[4, 2\]"),
        ({"test_prompts": 3}, "test_prompts: must be at least 8, found 3"),
        ({"task_latents": -1}, "task_latents: must be 0 or more, found -1"),
    ]
    for settings, message in refused:
        with pytest.raises(SaelabError, match=message):
            Supervised(**settings)
    work, places = work_of(word_lm, f"{HOOK}@verb")
    with pytest.raises(SaelabError, match=r"this task has no position 'verb'\n  fix: one of end, IO, S1, S2"):
        work.values("test", places)
    work, places = work_of(word_lm, "blocks.1.attn.hook_z[9]@end")
    with pytest.raises(SaelabError, match=r"'blocks.1.attn.hook_z\[9\]@end': blocks.1.attn.hook_z has 4 heads"):
        work.values("test", places)
