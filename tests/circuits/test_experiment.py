"""A table of methods, made part by part: what is measured, and going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch

from saelab.circuits import METHODS, Cost, Entry, Plan, Scores, first_edges, run, table
from saelab.circuits.pairs import draw
from saelab.circuits.parts import Parts, standing
from saelab.errors import SaelabError
from saelab.evals.family import Spread
from saelab.tasks import TASKS
from saelab.testing.planted_circuit import PlantedTask

PLAN = Plan(
    "planted",
    {
        "exact": Entry("patching", 8),
        "attribution": Entry("attribution", 8, {"mlps": True}),
        "edges": Entry("eap", 8),
        "random": Entry("random", 2),
    },
    seeds=2,
    truth_prompts=20,
    curve_prompts=12,
    curves=("attribution", "random"),
    random_orders=2,
    sets=3,
)


@pytest.fixture(autouse=True)
def planted_task():
    TASKS.add("planted", lambda tokenizer: PlantedTask())
    yield
    TASKS.remove("planted")


def test_a_whole_experiment(planted, planted_lm, tmp_path):
    told: list[str] = []
    found = run(planted_lm, PLAN, tmp_path / "parts.json", lambda what, done, total: told.append(what))
    json.dumps(found, allow_nan=False)
    assert found["shape"] == [3, 6]
    assert found["competence"]["accuracy"] == 1
    assert list(found["truths"]) == ["0.02", "0.01", "0.05"]
    members = sorted(head for heads in planted.circuit.values() for head in heads)
    assert [tuple(head) for head in found["truths"]["0.02"]["heads"]] == members
    rows = {row.label: row for row in table(found)}
    assert rows["exact"].auc["0.02"] == rows["attribution"].auc["0.02"] == Spread((1.0, 1.0))
    assert rows["exact"].average_precision == Spread((1.0, 1.0))
    assert rows["exact"].prompts == 16
    by_chance = rows["random"].auc["0.02"]
    assert by_chance is not None
    assert by_chance.around > 0  # seeds differ
    assert found["methods"]["edges"]["seeds"][0]["edges"][0][1] == "logits"
    assert set(found["curves"]["methods"]["attribution"]) == {"strength", "signed"}
    assert set(found["curves"]["methods"]["random"]) == {"strength"}
    assert len(found["curves"]["random"]) == 2
    assert found["together"]["loss"] > max(found["together"]["matched"])
    assert "attribution, seed 1" in told


def test_it_goes_on_where_it_was_interrupted(planted_lm, tmp_path):
    @dataclass(frozen=True)
    class Counted:
        seed: int = 0

        def __call__(self, lm, pairs, report=None):
            calls.append(self.seed)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return Scores("counted", torch.rand(3, 6), Cost())

    calls: list[int] = []
    METHODS.add("counted", Counted)
    try:
        plan = replace(PLAN, entries={"c": Entry("counted", 4), "exact": Entry("patching", 4)}, curves=(), together=0)
        with pytest.raises(KeyboardInterrupt):
            run(planted_lm, plan, tmp_path / "parts.json")
        first = run(planted_lm, plan, tmp_path / "parts.json")
        assert calls == [0, 1, 1]
        assert run(planted_lm, plan, tmp_path / "parts.json") == first
        more = run(planted_lm, replace(plan, seeds=3), tmp_path / "parts.json")
        assert calls == [0, 1, 1, 2]
        assert more["methods"]["c"]["seeds"][:2] == first["methods"]["c"]["seeds"]
    finally:
        METHODS.remove("counted")


def test_all_edges_of_the_first_seed_are_kept_and_made_again_where_they_are_not(planted_lm, tmp_path):
    plan = replace(PLAN, entries={name: PLAN.entries[name] for name in ("edges", "random")}, curves=(), together=0)
    parts = tmp_path / "parts.json"
    first = run(planted_lm, plan, parts)
    kept = first_edges(planted_lm, plan, parts)
    assert list(kept) == ["edges"]
    direct = METHODS["eap"]()(planted_lm, draw("planted", 8, "train", 0, planted_lm)).edges
    assert direct is not None
    assert (kept["edges"].sources, kept["edges"].targets) == (direct.sources, direct.targets)
    assert torch.allclose(kept["edges"].values, direct.values)
    assert torch.equal(kept["edges"].exist, direct.exist)
    (file,) = (tmp_path / "parts").iterdir()
    file.unlink()  # as in what an older saelab made
    again = run(planted_lm, plan, parts)
    assert file.exists()
    assert again["methods"]["edges"]["seeds"][0]["edges"] == first["methods"]["edges"]["seeds"][0]["edges"]
    assert again["methods"]["edges"]["seeds"][1] == first["methods"]["edges"]["seeds"][1]


def test_parts_are_kept_for_a_model_and_settings(planted_lm, word_lm, tmp_path):
    made: list[int] = []

    def part(lm, settings):
        return Parts(tmp_path / "parts.json", lm).part("a", settings, lambda: made.append(1) or len(made))

    assert [part(planted_lm, [1]), part(planted_lm, [1]), part(planted_lm, [2]), part(planted_lm, [1])] == [1, 1, 2, 1]
    assert part(word_lm, [1]) == 3


def test_each_part_says_what_made_it(planted_lm, tmp_path):
    plan = Plan("planted", {"slopes": Entry("attribution", 4)}, seeds=1, truth_prompts=4, together=0)
    before, after = {"machine": "before"}, {"machine": "after"}
    first = run(planted_lm, plan, tmp_path / "parts.json", stamp=before)
    (only,) = first["made"]
    assert only["machine"] == "before"
    assert [name.partition(" ")[0] for name in only["parts"]] == [
        "planted/competence", "planted/truth/0", "planted/attribution/seed0",
    ]  # fmt: skip
    both = run(planted_lm, replace(plan, seeds=2), tmp_path / "parts.json", stamp=after)["made"]
    assert both[0] == only
    assert [(one["machine"], len(one["parts"])) for one in both] == [("before", 3), ("after", 1)]
    old = json.loads((tmp_path / "parts.json").read_text())
    (tmp_path / "parts.json").write_text(json.dumps({key: old[key] for key in ("schema", "saelab", "model", "parts")}))
    assert [list(one) for one in run(planted_lm, plan, tmp_path / "parts.json")["made"]] == [["parts"]]


def test_how_far_it_is(planted_lm, tmp_path):
    entries = {"slopes": Entry("attribution", 4), "exact": Entry("patching", 4)}
    plan = Plan("planted", entries, seeds=2, truth_prompts=4, together=0)

    def stop(what: str, done: int, total: int) -> None:
        if what == "exact, seed 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(planted_lm, plan, tmp_path / "parts.json", stop)
    known = standing(tmp_path / "parts.json")
    assert (known.task, known.model, known.done, known.methods) == ("planted", planted_lm.identity["name"], 1, 2)
    (tmp_path / "parts.json").write_text('{"parts": []}')
    with pytest.raises(SaelabError, match="does not say how far the experiment is"):
        standing(tmp_path / "parts.json")


def test_a_task_that_the_model_cannot_do_is_refused_with_the_number(word_lm, tmp_path):
    with pytest.raises(SaelabError, match=r"answers \d+% of 'ioi' rightly, below 80%"):
        run(word_lm, replace(PLAN, task="ioi"), tmp_path / "parts.json")


def test_wrong_settings_are_found_before_any_work(planted_lm, tmp_path):
    with pytest.raises(SaelabError, match="method 'eap' has no setting 'steps'"):
        run(planted_lm, replace(PLAN, entries={"e": Entry("eap", 8, {"steps": 3})}, curves=()), tmp_path / "parts.json")
    with pytest.raises(SaelabError, match=r"unknown circuit method 'patchin'(.|\n)*did you mean 'patching'"):
        run(planted_lm, replace(PLAN, entries={"e": Entry("patchin")}, curves=()), tmp_path / "parts.json")
    for method, prompts, settings, said in (
        ("attribution", 8, {"batch_prompts": 0}, "batch_prompts: must be at least 1, found 0"),
        ("sparse_codes", 4, {}, "prompts: must be at least 5 for method 'sparse_codes', found 4"),
        ("sparse_codes", 4, {"examples": 0}, "examples: must be at least 1, found 0"),
        ("codes", 4, {}, "prompts: must be at least 5 for method 'codes', found 4"),
        ("random", 1, {}, "prompts: must be at least 2 for method 'random', found 1"),
    ):
        with pytest.raises(SaelabError, match=rf"entries\.e\.{said}"):
            Plan("planted", {"e": Entry(method, prompts, settings)})
    with pytest.raises(SaelabError, match="there is no entry 'EAP'"):
        replace(PLAN, curves=("EAP",))
    with pytest.raises(SaelabError, match="at least 2 pairs are needed, found 1"):
        draw("planted", 1, "train", 0, planted_lm)
    assert not (tmp_path / "parts.json").exists()
