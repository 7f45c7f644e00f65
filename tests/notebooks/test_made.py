"""Runs made in a notebook, found again; what is said on the way."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from saelab import notebook as nb
from saelab.errors import SaelabError
from saelab.evals.report import read
from saelab.lm.model import ModelSpec, load
from saelab.notebook import lines
from saelab.testing.tiny import tiny_model


@pytest.mark.slow
def test_a_run_is_made_once_and_is_this_models(lm, config_text, tmp_path, capsys):
    config = config_text("a", f"runs_dir: {tmp_path}\n")
    assert nb.finished(tmp_path / "a", lm) is None
    place = nb.make(config, lm)
    assert place == tmp_path / "a"
    assert {"sae", "index", "report.html", "eval.json"} <= {path.name for path in place.iterdir()}
    assert "train" in capsys.readouterr().out
    before = (place / "sae" / "weights.safetensors").stat().st_mtime_ns
    assert nb.make(config) == place
    assert (place / "sae" / "weights.safetensors").stat().st_mtime_ns == before
    assert nb.finished(place, lm) == place
    (place / "index" / "manifest.json").rename(tmp_path / "manifest.json")
    with pytest.raises(SaelabError, match=r"this run has no feature index yet(.|\n)*saelab index"):
        nb.finished(place, lm)
    other = load(ModelSpec(str(tiny_model(tmp_path / "other", "gpt2")), dtype="float32", device="cpu"))
    assert nb.finished(place, other) is None
    with pytest.raises(SaelabError, match="lm: this is other, and the config's model is tiny-llama"):
        nb.make(config, other)
    with pytest.raises(SaelabError, match=r"metrics: 'fuv' was not measured\n.*one of .*fvu"):
        nb.numbers(read(place), ["fuv"])
    numbers = repr(nb.numbers(read(place), ["fvu", "dead_frac"])).splitlines()
    assert [line.split()[0] for line in numbers] == ["metric", "fvu", "dead_frac"]
    assert "held-out" not in numbers[0]


def test_configs_of_several_runs_are_refused(config_text):
    with pytest.raises(SaelabError, match="config: this makes one run"):
        nb.make(config_text("a", "sweep: {grid: {sae.k: [4, 8]}}\n"))


class Page:
    """What a notebook shows: the newest text of each place."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def display(self, bundle: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        self.texts.append(bundle["text/plain"])
        number = len(self.texts) - 1
        return SimpleNamespace(update=lambda new, raw: self.texts.__setitem__(number, new["text/plain"]))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    shown = Page()
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=None))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.display))
    return shown


def test_progress_is_one_line_that_ends_with_how_long_it_took(page, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(lines.time, "perf_counter", lambda: now[0])
    report = nb.progress("patching")
    for seconds, done, said in (
        (1.0, 6, "6 of 9"),  # gone on with: five were done before
        (1.1, 7, "6 of 9"),  # too soon
        (4.0, 8, "8 of 9, 2 s left"),
        (8.0, 9, "done in 8 s"),
    ):
        now[0] = seconds
        report(done, 9)
        assert page.texts == [f"patching: {said}"]


def test_stages_share_a_line(page):
    with nb.stages("ioi") as tell:
        tell("patching", 1, 1)
        tell("attribution", 1, 1)
        assert page.texts[0].startswith("ioi: attribution: done in")
    assert page.texts == ["ioi: done in 0 s"]


def test_a_runs_messages_stay_and_where_the_home_is_does_not(page, monkeypatch, tmp_path):
    monkeypatch.setattr(lines.Path, "home", lambda: tmp_path)
    said = lines.Lines()
    said.log_to(tmp_path / "log.txt")
    said.say(f"cache  3 tokens in {tmp_path} -> {tmp_path}/store")
    with said.stage("train", 2) as stage:
        stage.update(2, "loss 1")
        assert page.texts == ["cache  3 tokens in ~\ntrain: done in 0 s  loss 1"]
    assert page.texts == ["cache  3 tokens in ~"]
    assert f"{tmp_path}/store" in (tmp_path / "log.txt").read_text()


def test_without_a_notebook_nothing_is_shown():
    assert not lines.in_notebook()
    nb.progress("patching")(1, 1)
