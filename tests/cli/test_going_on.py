"""What has been learned is not lost: runs and groups that go on, start over, fail or are asked to stop."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from saelab.cli import compare as comparing
from saelab.cli.console import Reporter
from saelab.cli.expand import compared, group_directory, swept
from saelab.cli.group import Group, check_failures, under_way
from saelab.cli.runs import list_runs
from saelab.cli.schema import RunConfig
from saelab.cli.stages import Loaded
from saelab.config import parse_config, to_yaml
from saelab.errors import Interrupted, RunFailedError, SaelabError
from saelab.sae import SAE, build
from saelab.training import checkpoint
from saelab.training.run_directory import RunDirectory

HOOK = "blocks.1.hook_resid_post"
SHORT = ("train.tokens=1280", "eval={reconstruction: {}}", "index=null")
COMPARE = "compare={curve: {k: [4, 8]}, members: {r: {sae: {kind: relu, n_latents: 128}}}, companions: [r]}"
WILD = ("train.lr=1e30", "train.grad_clip=null")


@pytest.fixture
def read(config_text) -> Callable[..., RunConfig]:
    """The config of a run `r` of ten steps."""
    return lambda *overrides: parse_config(RunConfig, config_text("r"), "r.yaml", [*SHORT, *overrides])


@pytest.fixture
def reporter(tmp_path, monkeypatch) -> Reporter:
    from rich.console import Console

    monkeypatch.chdir(tmp_path)
    return Reporter(Console(width=300))


@pytest.fixture
def group(lm, reporter, monkeypatch) -> Callable[[RunConfig], Group]:
    """Groups, and comparisons, whose model is loaded already."""

    def loaded(spec, reporter) -> Loaded:
        found = Loaded(spec, reporter)
        found.model = lm
        return found

    monkeypatch.setattr(comparing, "Loaded", loaded)
    return lambda config: Group(swept(config), group_directory(config), reporter, loaded(config.model, reporter))


def begin(group: Group) -> None:
    with group.claimed():
        group.begin(fresh=False)


def train(group: Group) -> None:
    store = group.prepare(fresh=False)
    with group.claimed():
        group.begin(fresh=False)
        group.train(store)


def write_checkpoint(place: Path, *names: str) -> None:
    state = dict.fromkeys(["store", "batches", "clock", "numerics"]) | {"failed": {}}
    state |= {"precision": dict.fromkeys(names, "exact")}
    made = checkpoint.Checkpoint(30, {"x": torch.zeros(1)}, state)
    checkpoint.save(RunDirectory(place).checkpoints, made, keep=1)


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Inside, trainings end after so many steps together, as by a scheduler."""

    @dataclass
    class Asked:
        left: int
        signal: signal.Signals | None = None

        @property
        def requested(self) -> bool:
            self.left -= 1
            self.signal = signal.SIGTERM if self.left <= 0 else None
            return self.left <= 0

    asked = Asked(after)
    with monkeypatch.context() as patched:
        patched.setattr("saelab.cli.group.stop_on_signals", lambda: nullcontext(asked))
        with pytest.raises(Interrupted):
            yield


# -- what others have learned -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
def test_a_part_of_a_comparison_leaves_what_others_have_learned_alone(read, group, reporter, fresh):
    config = read(COMPARE)
    place = group_directory(config) / "seed-0"
    begin(Group(compared(config, 0), place, reporter))
    write_checkpoint(place, "topk-4", "topk-8", "r")
    with pytest.raises(
        SaelabError, match=r"drop what r, topk-8 learned so far(.|\n)*--only r --only topk-8\)(.|\n)*--fresh"
    ):
        comparing.compare(config, reporter, fresh=fresh, only=["topk-4"])
    assert under_way(place) == {"topk-4", "topk-8", "r"}
    shutil.rmtree(place / "topk-8")
    RunDirectory(place / "r").write_failure("no longer finite")
    assert under_way(place) == {"topk-4"}


def test_so_it_does_with_a_companion(read, group, reporter):
    config = read(COMPARE)
    place = group_directory(config) / "seed-0"
    with RunDirectory(place).claimed():
        RunDirectory(place / "topk-like-r").write_config("name: topk-like-r")
    write_checkpoint(place, "topk-like-r")
    with pytest.raises(SaelabError, match=r"drop what topk-like-r learned(.|\n)*--only topk-like-r\)"):
        comparing.compare(config, reporter, fresh=False, only=["topk-4"])


def test_a_damaged_checkpoint_does_not_keep_anyone_from_starting_over(tmp_path):
    write_checkpoint(tmp_path, "a")
    next(tmp_path.glob("checkpoints/*/state.json")).write_text("{")
    assert under_way(tmp_path, damaged_too=True) == set()
    with pytest.raises(SaelabError, match="this checkpoint is damaged"):
        under_way(tmp_path)


@pytest.mark.slow
def test_a_comparison_goes_on_with_what_was_begun_together_and_then_with_the_rest(
    read, group, reporter, monkeypatch, capsys
):
    config = read(COMPARE)
    with stopped(monkeypatch, 15):
        comparing.compare(config, reporter, fresh=False, only=["r"])
    assert under_way(group_directory(config) / "seed-0") == {"topk-like-r"}
    capsys.readouterr()
    with stopped(monkeypatch, 5 + 4):
        comparing.compare(config, reporter, fresh=False)
    assert "going on from step 5" in capsys.readouterr().out
    assert under_way(group_directory(config) / "seed-0") == {"topk-4", "topk-8"}
    comparing.compare(config, reporter, fresh=False)
    assert "going on from step 4" in capsys.readouterr().out
    assert len(list(Path("runs").rglob("sae/config.json"))) == 4


# -- another config -----------------------------------------------------------------------------------------------


def test_a_member_is_not_gone_on_with_by_another_config(read, group):
    sweep = "sweep={grid: {sae.k: [4, 8]}}"
    config = read(sweep)
    begin(group(config))
    write_checkpoint(group_directory(config), "k-4", "k-8")
    with pytest.raises(SaelabError, match=r"a run of another config; different: train\.lr"):
        group(read(sweep, "train.lr=1e-4")).prepare(fresh=False)


def test_what_came_to_no_checkpoint_leaves_nothing_to_a_run_of_another_config(read, group):
    config = read()
    begin(group(config))
    run = RunDirectory(Path("runs/r"))
    for place in (run.milestones / "step-00000001", run.index):
        place.mkdir(parents=True)
    (run.path / "sinks.json").write_text("{}")
    begin(group(config))
    assert run.milestones.exists()
    begin(group(read("train.lr=1e-4")))
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.yaml"]
    assert "lr: 0.0001" in run.config.read_text()


# -- before anything is dropped -----------------------------------------------------------------------------------


def topk(n_latents: int = 128) -> SAE:
    torch.manual_seed(0)
    return build("topk", 32, {"n_latents": n_latents, "k": 8}).sae.inference()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init_from=runs/typo"], "this directory does not exist"),
        (["init_from=runs/r"], "init_from: this run cannot start from itself: runs/r"),
        (["init_from=runs/r/sae"], "this run cannot start from itself"),
        (["init_from=narrow"], "cannot start 'topk' from this 'topk': it has 64 latents"),
        (["source={kind: stream, buffer_tokens: 16}"], "source.buffer_tokens: 16 is less than one context of 32"),
        (
            [f"activations.hooks=[{HOOK}, blocks.0.hook_resid_post]", "target_hook=blocks.0.hook_resid_post"],
            f"target_hook: '{HOOK}' comes after 'blocks.0.hook_resid_post'",
        ),
    ],
)
def test_what_cannot_be_trained_leaves_the_old_run_as_it_was(read, group, own_cache, overrides, message):
    config = read(*overrides)
    topk(64).save(Path("narrow"))
    run = RunDirectory(Path("runs/r"))
    with run.claimed():
        run.write_config(to_yaml(config))
        topk().save(run.sae)
    with pytest.raises(SaelabError, match=message):
        group(config).make(fresh=True)
    assert run.finished
    assert not list(own_cache.iterdir())


def test_a_foreign_directory_is_seen_before_anything_is_cached(read, group, own_cache):
    Path("runs/r").mkdir(parents=True)
    Path("runs/r/mine").touch()
    with pytest.raises(SaelabError, match="files that are not a run's"):
        group(read()).make()
    assert not list(own_cache.iterdir())


@pytest.mark.slow
def test_what_a_run_started_from_may_change_or_go_while_it_is_trained(read, group, monkeypatch):
    topk().save(Path("origin"))
    config = read("init_from=origin")
    with stopped(monkeypatch, 4):
        train(group(config))
    shutil.rmtree("origin")
    train(group(config))
    assert SAE.load("runs/r/sae").identity.provenance["init_from"] == topk().sha256()


# -- failures and stops -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_diverges_alone_says_so_and_a_comparison_goes_on_with_other_seeds(read, group, reporter):
    alone = group(read(*WILD))
    train(alone)
    with pytest.raises(
        RunFailedError, match=r"runs/r: its loss or weights are no longer finite at step 5(.|\n)*--fresh"
    ):
        check_failures([alone])
    (record,) = list_runs([Path("runs")]).runs.values()
    assert record.state == "failed"
    config = read(*WILD, "name=c", "compare={curve: {k: [4]}, members: {}, seeds: [0, 1]}")
    groups = comparing.compare(config, reporter, fresh=False)
    with pytest.raises(RunFailedError, match=r"c/seed-0/topk-4: its loss.*c/seed-1/topk-4: its loss"):
        check_failures(groups)


@pytest.mark.slow
def test_a_stop_in_the_last_step_is_heard_too(read, group, monkeypatch):
    config = read()
    with stopped(monkeypatch, 10):
        train(group(config))
    assert not RunDirectory(Path("runs/r")).finished
    train(group(config))
    assert RunDirectory(Path("runs/r")).finished
