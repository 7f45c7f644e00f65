"""`saelab report`, and the page at the end of a run, a sweep and a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import refused, saelab
from tests.evals.report_runs import whole_run

__all__ = ["saelab"]  # a fixture


def test_of_a_run_beside_it_or_elsewhere(saelab, write_run):
    run = whole_run(Path("runs/mine"), write_run)
    done = saelab("report", "runs/mine")
    assert (done.returncode, done.stdout.strip()) == (0, "runs/mine/report.html"), done.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Not measured yet: downstream." in page  # as its config plans
    assert "<code>saelab eval runs/mine</code>" in page
    done = saelab("report", "runs/mine", "-o", "pages/a.html", "--json")
    assert json.loads(done.stdout) == {"path": "pages/a.html"}
    assert Path("pages/a.html").read_text(encoding="utf-8") == page


def test_of_several_beside_each_other_where_they_lie(saelab, write_run):
    for name in ("a", "b"):
        whole_run(Path("runs/all") / name, write_run)
    assert saelab("report", "runs/all/a", "runs/all/b").stdout.strip() == "runs/all/report.html"
    first = Path("runs/all/report.html").read_text(encoding="utf-8")
    assert saelab("report", "runs/all").stdout.strip() == "runs/all/report.html"
    assert Path("runs/all/report.html").read_text(encoding="utf-8") == first
    assert "2 SAEs side by side" in first


def test_seeds_of_one_member_stand_together(saelab, write_run):
    for seed in (0, 1):
        for name in ("a", "b"):
            whole_run(Path(f"runs/all/seed-{seed}") / name, write_run)
    assert saelab("report", "runs/all").returncode == 0
    assert "2 SAEs, each on 2 seeds, side by side" in Path("runs/all/report.html").read_text(encoding="utf-8")


def test_one_bad_run_among_several_is_noted(saelab, write_run):
    whole_run(Path("runs/all/a"), write_run)
    Path("runs/all/b").mkdir()
    Path("runs/all/b/config.yaml").write_text("learning_rate: 3\n")
    whole_run(Path("runs/all/c"), write_run)
    assert saelab("report", "runs/all").returncode == 0
    page = Path("runs/all/report.html").read_text(encoding="utf-8")
    assert "its config.yaml is not a run&#x27;s" in page
    assert "2 SAEs side by side" in page


def test_what_is_not_there_is_refused(saelab, tmp_path):
    refused(saelab("report", "runs/none", "runs/other"), "runs/none: this run does not exist", "saelab runs lists")
    refused(saelab("report", "nothing"), "there is no config 'nothing'")
    (tmp_path / "empty").mkdir()
    refused(saelab("report", "empty"), "empty: there is no run here", "such as runs/demo")
    refused(saelab("report", "compare/family"), "runs/family: none of its runs has begun", "saelab compare CONFIG")
    refused(saelab("report", "demo"), "runs/demo: there is no run here", "saelab run CONFIG")


@pytest.mark.slow
def test_a_run_ends_with_its_page_and_measuring_renews_it(saelab, config_text):
    Path("tiny.yaml").write_text(config_text())
    done = saelab("run", "tiny.yaml")
    assert "report     runs/tiny/report.html" in done.stdout
    page = Path("runs/tiny/report.html")
    assert "Example features" in page.read_text(encoding="utf-8")
    assert "Error by position" not in page.read_text(encoding="utf-8")
    assert saelab("eval", "runs/tiny", "-o", "eval.profile={}").returncode == 0
    assert "Error by position" in page.read_text(encoding="utf-8")
    page.unlink()
    assert saelab("eval", "runs/tiny", "-o", "eval.profile={}").returncode == 0
    assert not page.exists()
    assert saelab("report", "tiny.yaml").stdout.strip() == "runs/tiny/report.html"


@pytest.mark.slow
def test_a_sweep_ends_with_one_page_of_all(saelab, config_text):
    Path("tiny.yaml").write_text(config_text(extra="sweep: {grid: {sae.k: [4, 8]}}"))
    done = saelab("run", "tiny.yaml")
    assert "report     runs/tiny/report.html" in done.stdout, done.stderr
    page = Path("runs/tiny/report.html").read_text(encoding="utf-8")
    assert "2 SAEs side by side" in page
    assert "sae.k" in page  # what differs
    assert saelab("report", "tiny.yaml", "-o", "other.html").returncode == 0
    assert Path("other.html").read_text(encoding="utf-8") == page
