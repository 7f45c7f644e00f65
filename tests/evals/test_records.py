"""Run directories as they are found: at every stage, damaged, and beside what is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from saelab.errors import SaelabError
from saelab.evals.records import MAX_DEPTH, Plan, find_runs, read_run

PLAN = Plan("topk", {"n_latents": 64}, tokens=1000, evaluators=("reconstruction", "downstream"), seed=3)


def test_a_run_in_training_says_how_far_it_is(write_run, tmp_path):
    run = read_run(write_run(tmp_path / "r", "training"), PLAN)
    assert (run.state, run.progress, run.standing, run.tokens) == ("training", 0.4, "training 40 %", 400)
    assert (run.kind, run.settings, run.seed, run.tokens_per_second) == ("topk", {"n_latents": 64}, 3, 90.0)
    assert run.metrics == {}
    assert run.heldout == {"fvu": 0.5, "l0": 7.25}  # from an earlier line than the newest; the cut one is passed over
    assert run.value("fvu") == 0.5
    assert run.value("ce_score") is None
    assert run.problems == ()


def test_without_its_plan_a_run_in_training_says_what_it_can(write_run, tmp_path):
    run = read_run(write_run(tmp_path / "r", "training"))
    assert (run.standing, run.progress, run.kind, run.settings) == ("training", None, None, {})


def test_a_run_that_has_only_its_config_has_no_numbers(write_run, tmp_path):
    path = write_run(tmp_path / "r", "training")
    (path / "metrics.jsonl").unlink()
    run = read_run(path, PLAN)
    assert (run.standing, run.tokens, run.tokens_per_second) == ("training 0 %", None, None)
    assert run.heldout == {}


def test_a_trained_run_has_the_deployed_forms_numbers(write_run, tmp_path):
    run = read_run(write_run(tmp_path / "r", "trained"), PLAN)
    assert (run.state, run.standing, run.progress, run.tokens) == ("trained", "trained", 1.0, 1000)
    assert run.settings == {"n_latents": 64, "k": 8}  # the SAE's own word, not the plan's
    assert run.heldout == {"fvu": 0.4, "l0": 7.9}


def test_an_evaluated_run_prefers_what_evaluators_found(write_run, tmp_path):
    run = read_run(write_run(tmp_path / "r", fvu=0.35), PLAN)
    assert (run.state, run.value("fvu"), run.value("ce_score")) == ("evaluated", 0.35, 0.9)
    assert json.loads(json.dumps(run.document()))["metrics"]["fvu"] == 0.35


def test_a_run_is_evaluated_once_all_its_evaluators_have_spoken(write_run, tmp_path):
    plan = Plan(evaluators=("reconstruction", "downstream", "density"))
    run = read_run(write_run(tmp_path / "r"), plan)
    assert (run.state, run.value("fvu")) == ("trained", 0.3)


def test_a_failed_run_says_why(write_run, tmp_path):
    run = read_run(write_run(tmp_path / "r", "failed"), PLAN)
    assert (run.state, run.standing, run.progress) == ("failed", "failed", 0.4)
    assert run.problems == ("training failed: its loss is no longer finite at step 5",)
    (tmp_path / "r" / "failed.json").write_text("[]")
    again = read_run(tmp_path / "r", PLAN)
    assert (again.state, again.problems) == ("failed", ("training failed: its failed.json cannot be read",))


def test_measurements_of_another_sae_do_not_count(write_run, tmp_path):
    run = read_run(write_run(tmp_path / "r", sae_sha256="b"), PLAN)
    assert (run.state, run.metrics) == ("trained", {})
    assert run.problems == ("eval.json: of another SAE than the one in sae/",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "eval.json: not a readable JSON file: Expecting property name"),
        ("[]", "eval.json: not a JSON object"),
        ('{"sae_sha256": "a", "evaluations": 3}', "eval.json: it holds no evaluations"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_read(write_run, tmp_path, text, problem):
    path = write_run(tmp_path / "r")
    (path / "eval.json").write_text(text)
    run = read_run(path, PLAN)
    assert (run.state, run.heldout["fvu"]) == ("trained", 0.4)
    assert len(run.problems) == 1
    assert run.problems[0].startswith(problem)


def test_numbers_that_are_none_are_left_out(write_run, tmp_path):
    path = write_run(tmp_path / "r", "training")
    (path / "metrics.jsonl").write_text('{"step": 1, "tokens": null, "metrics/l0": "x", "heldout/fvu": NaN}\n[1]\n\n')
    run = read_run(path, PLAN)
    assert (run.tokens, run.heldout, run.standing) == (None, {}, "training 0 %")


def test_when_it_was_written_is_when_its_newest_file_was(write_run, tmp_path):
    path = write_run(tmp_path / "r")
    for file in path.iterdir():
        os.utime(file, (1000, 1000))
    os.utime(path / "summary.json", (2000, 2000))
    assert read_run(path).written == 2000


def test_runs_are_found_below_groups_but_not_inside_runs(write_run, tmp_path):
    alone, first, second = (write_run(tmp_path / name) for name in ("alone", "family/seed-0/a", "family/seed-1/a"))
    write_run(alone / "inside")
    for hidden in ("family/checkpoints/step-00000001", ".trash/old", "a.tmp-12345678"):
        write_run(tmp_path / hidden)
    (tmp_path / "family" / "log.txt").write_text("a group's own")
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    found = find_runs(tmp_path)
    assert found.runs == (alone, first, second)
    assert found.others == {tmp_path / "notes": "no run"}
    assert find_runs(alone).runs == (alone,)


def test_the_search_has_a_depth(write_run, tmp_path):
    deep = write_run(tmp_path.joinpath(*"a" * MAX_DEPTH))
    too_deep = write_run(tmp_path.joinpath(*"b" * (MAX_DEPTH + 1)))
    found = find_runs(tmp_path)
    assert found.runs == (deep,)
    assert found.others == {tmp_path / "b": "no run"}
    assert too_deep.exists()


def test_a_directory_that_refuses_is_named(write_run, tmp_path, monkeypatch):
    run = write_run(tmp_path / "mine")
    (tmp_path / "theirs" / "locked").mkdir(parents=True)
    listing = Path.iterdir

    def refuse(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = find_runs(tmp_path)
    assert found.runs == (run,)
    assert found.others == {tmp_path / "theirs" / "locked": "cannot be read: Permission denied"}


def test_where_nothing_is_there_is_an_error(tmp_path):
    with pytest.raises(SaelabError) as error:
        find_runs(tmp_path / "runs")
    assert str(error.value) == (
        f"{tmp_path / 'runs'}: there are no runs here: this directory does not exist\n"
        "  fix: name a directory that holds runs"
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(SaelabError, match="this is not a directory"):
        find_runs(tmp_path / "file")
