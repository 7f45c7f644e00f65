"""Sinks: none stops a run, one that is not there is said to be missing in time, a resumed run tells nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from saelab.errors import SaelabError
from saelab.training import TensorBoardSpec, TrackioSpec, TrainSpec, WandbSpec
from saelab.training.run_directory import RunDirectory
from saelab.training.sinks import EVENTS, Guarded, JsonLines, check_installed, open_sinks

WANDB = TrainSpec(wandb=WandbSpec(mode="offline", project="dictionaries", entity="us"))
TENSORBOARD = TrainSpec(tensorboard=TensorBoardSpec(enabled=True))
TRACKIO = TrainSpec(trackio=TrackioSpec(enabled=True, project="dictionaries", space="us/board"))
ALL = TrainSpec(wandb=WANDB.wandb, tensorboard=TENSORBOARD.tensorboard, trackio=TRACKIO.trackio)


class Tracker:
    """Stands for wandb and for trackio: remembers what it is told, run by run."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.told: dict[str, list[int]] = {}
        self.finished: list[str] = []

    def init(self, **settings: Any) -> SimpleNamespace:
        self.opened.append(settings)
        run = settings.get("id") or settings["name"]
        steps = self.told.setdefault(run, [])
        return SimpleNamespace(log=lambda metrics, step: steps.append(step), finish=lambda: self.finished.append(run))


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    return tracker


def train(spec: TrainSpec, directory, steps, *, start: int = 0, name: str = "demo") -> None:
    """One sitting: a line at each of `steps`, and the end."""
    sinks = open_sinks(spec, directory, name=name, config={"k": 8}, step=start)
    for step in steps:
        for sink in sinks:
            sink.log(step, {"losses/total": 1 / step})
    for sink in sinks:
        sink.close()


def steps_in(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


# -- the file --------------------------------------------------------------------------------------------


def test_metrics_lines_and_cutting_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    (sink,) = open_sinks(TrainSpec(), tmp_path, name="x", config={})
    for step in (10, 20, 30):
        sink.log(step, {"loss": 1 / step, "bad": float("nan")})
    sink.close()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert JsonLines.last_step(path) == 30
    JsonLines.cut_back(path, 20)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 10, "loss": 0.1, "bad": None}, {"step": 20, "loss": 0.05, "bad": None}]
    JsonLines.cut_back(tmp_path / "absent.jsonl", 3)
    assert JsonLines.last_step(tmp_path / "absent.jsonl") == 0


def test_a_resumed_run_has_each_line_once(tmp_path):
    train(TrainSpec(), tmp_path, [10, 20, 30, 40])
    train(TrainSpec(), tmp_path, [30, 40, 50], start=20)
    assert steps_in(tmp_path / "metrics.jsonl") == [10, 20, 30, 40, 50]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


# -- what is asked for, and what is there ------------------------------------------------------------------


def test_nothing_is_imported_that_is_not_asked_for():
    code = (
        "import sys; from saelab.training import TrainSpec; from saelab.training.sinks import check_installed;"
        "check_installed(TrainSpec()); print(sorted({'wandb', 'tensorboard', 'trackio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("spec", "package", "message"),
    [
        (WANDB, "wandb", "train.wandb.mode: Weights & Biases is not installed\n  fix: pip install 'saelab[wandb]'"),
        (
            TENSORBOARD,
            "tensorboard",
            "train.tensorboard.enabled: TensorBoard is not installed\n  fix: pip install 'saelab[tensorboard]'",
        ),
        (TRACKIO, "trackio", "train.trackio.enabled: trackio is not installed\n  fix: pip install 'saelab[trackio]'"),
    ],
)
def test_absence_says_what_to_install_before_anything_is_written(tmp_path, monkeypatch, spec, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    for attempt in (
        lambda: check_installed(spec),
        lambda: open_sinks(spec, tmp_path, name="x", config={}),
    ):
        with pytest.raises(SaelabError) as found:
            attempt()
        assert str(found.value) == message
    assert not list(tmp_path.iterdir())


def test_runs_are_opened_as_their_settings_say(tracker, tmp_path, capsys):
    train(WANDB, tmp_path / "a", [])
    train(TRACKIO, tmp_path / "b", [])
    wandb, trackio = tracker.opened
    identity = json.loads((tmp_path / "a" / "sinks.json").read_text())["id"]
    expected = {"project": "dictionaries", "entity": "us", "mode": "offline", "resume": "allow", "reinit": "create_new"}
    assert wandb == expected | {"name": "demo", "id": identity, "dir": str(tmp_path / "a"), "config": {"k": 8}}
    identity = json.loads((tmp_path / "b" / "sinks.json").read_text())["id"]
    expected = {"project": "dictionaries", "space_id": "us/board", "resume": "allow", "embed": False}
    assert trackio == expected | {"name": f"demo-{identity}", "config": {"k": 8}}


def test_what_trackio_prints_is_kept_out_of_standard_output(tracker, tmp_path, capsys, monkeypatch):
    real = tracker.init

    def talkative(**settings):
        print("* Created new run")  # noqa: T201
        return real(**settings)

    monkeypatch.setattr(tracker, "init", talkative)
    train(TRACKIO, tmp_path, [])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "* Created new run\n"


# -- failures ----------------------------------------------------------------------------------------------


class Failing:
    def __init__(self, *where: str):
        self.where, self.calls = where, []

    def __call__(self) -> Failing:
        self._maybe("open")
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._maybe("log")

    def close(self) -> None:
        self._maybe("close")

    def _maybe(self, what: str) -> None:
        self.calls.append(what)
        if what in self.where:
            raise ConnectionError(f"no route, said {what}")


@pytest.mark.parametrize(
    ("where", "calls", "reason"),
    [
        (("open",), ["open"], "open"),
        (("log",), ["open", "log", "log", "close"], "log"),
        (("close",), ["open", "log", "log", "close"], "close"),
        (("log", "close"), ["open", "log", "log", "close"], "log"),
    ],
)
def test_a_sink_that_fails_warns_once_with_its_name(where, calls, reason):
    failing = Failing(*where)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sink = Guarded("The board", failing)
        sink.log(1, {})
        sink.log(2, {})
        sink.close()
    said = f"The board failed, training goes on without it: no route, said {reason}"
    assert [str(warning.message) for warning in caught] == [said]
    assert failing.calls == calls


def test_a_person_who_interrupts_a_sink_is_heard():
    def connect():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded("The board", connect)


def test_one_that_fails_takes_no_other_with_it(tracker, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=lambda **_: 1 / 0))
    monkeypatch.setitem(sys.modules, "tensorboard", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(ALL, tmp_path, [10, 20])
    titles = [str(warning.message).partition(" failed")[0] for warning in caught]
    assert titles == ["TensorBoard", "trackio"]
    assert steps_in(tmp_path / "metrics.jsonl") == [10, 20]
    assert list(tracker.told.values()) == [[10, 20]]
    assert len(tracker.finished) == 1


# -- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [WANDB, TRACKIO])
def test_a_resumed_run_goes_on_where_it_was_and_tells_nothing_twice(tracker, tmp_path, spec):
    train(spec, tmp_path, [10, 20, 30, 40])
    train(spec, tmp_path, [30], start=20)  # killed soon after it went on, below what had been told before
    train(spec, tmp_path, [30, 40, 50], start=20)
    assert list(tracker.told.values()) == [[10, 20, 30, 40, 50]]
    assert steps_in(tmp_path / "metrics.jsonl") == [10, 20, 30, 40, 50]


def test_a_sink_that_joins_later_is_told_from_where_the_run_goes_on(tracker, tmp_path):
    train(WANDB, tmp_path, [10, 20, 30, 40])
    both = TrainSpec(wandb=WANDB.wandb, trackio=TRACKIO.trackio)
    train(both, tmp_path, [30, 40, 50], start=20)
    assert list(tracker.told.values()) == [[10, 20, 30, 40, 50], [30, 40, 50]]


def test_one_that_could_not_be_opened_has_not_been_told(tracker, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "init", lambda **_: 1 / 0)
        with pytest.warns(UserWarning, match="Weights & Biases failed"):
            train(WANDB, tmp_path, [10, 20, 30])
    train(WANDB, tmp_path, [10, 20, 30])  # killed before its first checkpoint
    assert list(tracker.told.values()) == [[10, 20, 30]]


def test_runs_of_one_name_stay_apart(tracker, tmp_path):
    train(WANDB, tmp_path / "one", [10])
    train(WANDB, tmp_path / "other", [10])
    assert list(tracker.told.values()) == [[10], [10]]


def test_starting_over_begins_new_runs_and_forgets_the_old_events(tracker, tmp_path):
    directory = RunDirectory(tmp_path / "demo")
    with directory.claimed():
        train(WANDB, directory.path, [10, 20])
        (directory.path / EVENTS).mkdir()
        directory.start_over()
        assert [path.name for path in directory.path.iterdir()] == [".lock"]
        train(WANDB, directory.path, [10])
    assert list(tracker.told.values()) == [[10, 20], [10]]


def events_in(directory) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(directory)).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.mark.parametrize("start", [0, 20])
def test_tensorboard_shows_each_step_once_and_as_it_was_told_last(tmp_path, start):
    train(TENSORBOARD, tmp_path, [10, 20, 30, 40])
    lines, sink = open_sinks(TENSORBOARD, tmp_path, name="x", config={}, step=start)
    lines.close()
    for step in (10, 20, 30):
        if step > start:
            sink.log(step, {"losses/total": 7.0})
    expected = [(step, 7.0 if step > start else pytest.approx(1 / step)) for step in (10, 20, 30)]
    assert events_in(tmp_path / EVENTS) == {"losses/total": expected}  # nothing waits for the end
    sink.close()
