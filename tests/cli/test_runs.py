"""`saelab runs` as a user meets it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from saelab.cli import app


@pytest.fixture
def runs(tmp_path, monkeypatch, capsys):
    """Calls the command in an empty directory; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saelab", "runs", *arguments])
        with pytest.raises(SystemExit) as left:
            app.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return call


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_a_row_for_each_run_at_its_stage(runs, write_run):
    write_run(Path("runs/done"), fvu=0.123456, dead_frac=0.0625)
    write_run(Path("runs/family/seed-0/under_way"), "training")
    write_run(Path("runs/trained"), "trained", kind="batch_topk")
    write_run(Path("runs/wrong"), "failed")
    os.utime("runs/done/eval.json", (4e9, 4e9))
    code, out, _ = runs()
    assert code == 0
    found = rows(out)
    assert list(found)[1:5] == ["done", "family/seed-0/under_way", "trained", "wrong"]
    columns = ["topk", "64", "k", "8", "evaluated", "1,000", "0.1235", "8.0", "0.9000", "6.25%", "100"]
    assert found["done"][1:-2] == columns
    assert found["done"][-2].startswith("2096-10-0")
    assert found["family/seed-0/under_way"][5:12] == ["training", "40", "%", "400", "~0.5000", "~7.2", "-"]
    assert found["trained"][1:10] == ["batch_topk", "64", "k", "8", "trained", "1,000", "~0.4000", "~7.9", "-"]
    assert found["wrong"][5:7] == ["failed", "400"]
    assert "runs/wrong: training failed: its loss is no longer finite at step 5" in out
    assert "~ on the few held-out tokens that training looks at" in out


def test_odd_directories_are_named_and_stop_nothing(runs, write_run):
    write_run(Path("runs/good"))
    for number in range(8):
        Path(f"runs/foreign{number}/files").mkdir(parents=True)
    write_run(Path("runs/cut")).joinpath("config.yaml").write_text("sae: {kind: [")
    write_run(Path("runs/binary")).joinpath("config.yaml").write_bytes(b"\xff\xfe\x00")
    write_run(Path("runs/bracket[/red]"))
    theirs = write_run(Path("runs/theirs"))
    (theirs / "config.yaml").write_text("trainer: {lr: 1}\n")
    old = write_run(Path("runs/old"), "training")
    (old / "config.yaml").write_text("sae: {kind: topk}\ntrain: 3\neval: [a]\n")
    code, out, err = runs()
    assert (code, err) == (0, "")
    assert {"good", "cut", "binary", "bracket[/red]", "old"} <= rows(out).keys()
    assert rows(out)["cut"][1:6] == ["topk", "64", "k", "8", "evaluated"]  # sae/config.json knows
    assert rows(out)["old"][1:6] == ["topk", "-", "-", "training", "400"]
    assert "no run in runs/foreign0, runs/foreign1, " in out
    assert "runs/foreign5 and 2 more" in out
    assert "runs/cut: config.yaml: not valid YAML: while parsing" in out
    assert "runs/binary: config.yaml: 'utf-8' codec" in out
    assert "runs/theirs: its config.yaml is not a run's" in out


def test_sorted_by_a_column_the_best_first_and_the_unknown_last(runs, write_run):
    for name, fvu, ce in (("a", 0.3, 0.8), ("b", 0.1, 0.7), ("c", 0.2, 0.9)):
        write_run(Path("runs", name), fvu=fvu, ce_score=ce)
    write_run(Path("runs/z"), "training")
    assert list(rows(runs("--sort", "fvu")[1]))[1:5] == ["b", "c", "a", "z"]
    assert list(rows(runs("--sort", "ce_score")[1]))[1:5] == ["c", "a", "b", "z"]
    assert list(rows(runs("--sort", "state")[1]))[1] == "z"
    code, _, err = runs("--sort", "fuv")
    assert code == 2
    assert err.split("\n")[:2] == ["error: --sort: there is no column 'fuv'", "  fix: did you mean 'fvu'?"]


def test_json_holds_everything(runs, write_run):
    write_run(Path("runs/a"), fvu=0.2)
    Path("runs/b").mkdir()
    document = json.loads(runs("--json")[1])
    assert document["notes"] == ["no run in runs/b"]
    (run,) = document["runs"]
    assert (run["name"], run["path"], run["state"], run["seed"]) == ("a", "runs/a", "evaluated", 3)
    assert run["metrics"]["fvu"] == 0.2
    assert run["settings"] == {"n_latents": 64, "k": 8}


def test_several_places_a_single_run_and_none(runs, write_run):
    write_run(Path("here/a"))
    write_run(Path("there/a"))
    assert list(rows(runs("here", "there")[1]))[1:] == ["here/a", "there/a"]
    assert list(rows(runs("here/a")[1]))[1:] == ["here/a"]
    Path("empty").mkdir()
    assert runs("empty")[1].splitlines() == ["no runs here", "no run in empty"]
    code, _, err = runs()
    assert code == 2
    assert "runs: there are no runs here: this directory does not exist" in err


@pytest.mark.slow
def test_a_real_run_is_read(runs, config_text, monkeypatch, capsys):
    Path("tiny.yaml").write_text(config_text())
    monkeypatch.setattr(sys, "argv", ["saelab", "run", "tiny.yaml"])
    with pytest.raises(SystemExit):
        app.main()
    capsys.readouterr()
    (run,) = json.loads(runs("--json")[1])["runs"]
    assert (run["name"], run["kind"], run["state"], run["tokens"]) == ("tiny", "topk", "evaluated", 12800)
    assert set(run["metrics"]) >= {"fvu", "l0", "ce_score", "ce_score_mean", "delta_ce_nats", "dead_frac", "dense_frac"}
    assert run["tokens_per_second"] > 0
    assert run["problems"] == []
