"""Sweeps and comparisons: what they expand to, that members equal runs of their own, that they go on after anything."""

import json
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest

from saelab.cli.compare import compare
from saelab.cli.console import Reporter
from saelab.cli.expand import companions, compared, group_directory, swept
from saelab.cli.family import family
from saelab.cli.group import Group, check_failures
from saelab.cli.schema import RunConfig
from saelab.config import parse_config
from saelab.errors import Interrupted, RunFailedError, SaelabError
from saelab.files import sha256_file

BASE = """
name: s
model: {name: x}
data: {dataset: y}
activations: {hooks: [a]}
sae: {kind: topk, n_latents: 512}
"""


def config(extra: str, base: str = BASE) -> RunConfig:
    return parse_config(RunConfig, f"{base}{extra}\n", "f.yaml")


@pytest.fixture
def reporter(tmp_path, monkeypatch) -> Reporter:
    from rich.console import Console

    monkeypatch.chdir(tmp_path)
    return Reporter(Console(width=200))


# -- what a config expands to ------------------------------------------------------------------------------


def test_a_sweep_is_every_combination_with_every_column():
    members = swept(config("sweep: {grid: {sae.k: [8, 16]}, zip: {train.lr: [1e-3, 3e-4], sae.aux_k: [4, 8]}}"))
    assert [m.name for m in members] == [
        "k-8_lr-0.001_aux_k-4", "k-8_lr-0.0003_aux_k-8", "k-16_lr-0.001_aux_k-4", "k-16_lr-0.0003_aux_k-8"
    ]  # fmt: skip
    last = members[-1]
    assert (last.sae.settings["k"], last.sae.settings["aux_k"], last.train.lr) == (16, 8, 3e-4)
    assert last.runs_dir == "runs/s"
    assert last.sweep is None


def test_a_config_without_a_sweep_is_its_own_only_member():
    alone = config("")
    assert swept(alone) == [alone]


def test_keys_that_end_alike_keep_their_whole_names():
    members = swept(config("sweep: {zip: {sae.k: [8], train.seed: [3], activations.seed: [3]}}"))
    assert [m.name for m in members] == ["k-8_train.seed-3_activations.seed-3"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("sweep: {}", r"f.yaml:7: sweep: nothing varies; grid: \{sae.k: \[16, 32, 64\]\}"),
        ("sweep: {grid: {sae.k: []}}", "sweep.grid.sae.k: has no values"),
        ("sweep: {grid: {sae.k: 3}}", "sweep.grid.sae.k: expected a list, found 3"),
        ("sweep: {zip: {sae.k: [1], train.lr: [1e-3, 1e-4]}}", "as many values, found sae.k: 1, train.lr: 2"),
        ("sweep: {grid: {sae.k: [1]}, zip: {sae.k: [2]}}", "sae.k is in grid, too"),
        ("sweep: {grid: {sae.k: [16, 1024]}}", "sweep member k-1024: sae.k: k = 1024 is more than n_latents = 512"),
        ("sweep: {grid: {sae.kk: [1]}}", "sweep member kk-1: sae.kk: unknown key; did you mean 'k'?"),
        ("sweep: {grid: {say.k: [1]}}", r"'say' is no section of a run(.|\n)*as in sae.k or train.lr"),
        ("sweep: {grid: {sae.k: [8, 8]}}", "two members would be called k-8"),
        ("sweep: {grid: {train.seed: [1, 2]}}", r"member seed-2: train.seed cannot vary(.|\n)*one sweep for each"),
        ("sweep: {grid: {windows.context_length: [64, 128]}}", "windows cannot vary"),
        ("compare: {members: {}}", "there is nothing to compare"),
        ("compare: {members: {r: {sae: {kind: rlu}}}}", "compare.members.r.sae.kind: unknown 'rlu'; did you mean"),
        ("compare: {members: {r: {sae: {kind: relu}, train: {lx: 1}}}}", "members.r: train.lx: unknown key"),
        ("compare: {members: {r: {sae: {kind: relu}, train: {seed: 1}}}}", None),
        ("compare: {members: {r: {sae: {kind: relu}, train: {tokens: 4096}}}, curve: {k: [8]}}", "train.tokens cannot"),
        ("compare: {members: {r/x: {sae: {kind: relu}}}}", "a name has up to 100 letters"),
        ("compare: {members: {r: {sae: {kind: relu}}}, companions: [q]}", "'q' is not among the members"),
        ("compare: {members: {r: {sae: {kind: relu}}}, seeds: [1, 1]}", "one or more, each once"),
        ("compare: {members: {}, curve: {k: [8], n_latents: [2]}}", "one setting varies along it"),
        ("compare: {members: {}, curve: {k: [8]}}\nsweep: {grid: {sae.k: [8]}}", "sweeps or compares, not both"),
        ("compare: {members: {}, curve: {k: [8, 16]}}\neval: {density: {}}", "f.yaml:8: eval: .* `reconstruction`"),
        ("compare: {members: {}, curve: {k: [8, 8]}}", r"compare: two members would be called topk-8"),
        (
            "compare: {members: {r: {sae: {kind: relu}}, topk-like-r: {sae: {kind: gated}}}, companions: [r]}",
            r"compare: two members would be called topk-like-r",
        ),
        ("sweep: {grid: {runs_dir: [x, y]}}", r"f.yaml:7: sweep.grid.runs_dir: .* cannot vary"),
        ("sweep: {zip: {name: [x, y]}}", "sweep.zip.name: .* cannot vary"),
        ("sweep: {grid: {compare.seeds: [[0], [1]]}}", "sweep.grid.compare.seeds: .* cannot vary"),
        ("sweep: {grid: {sweep.grid: [{}]}}", "sweep.grid.sweep.grid: .* cannot vary"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(extra, message):
    def expand() -> None:
        c = config(extra)
        swept(c) if c.sweep else compared(c, 0)

    if message is None:
        expand()
    else:
        with pytest.raises(SaelabError, match=message):
            expand()


def test_a_comparison_is_the_references_curve_and_the_members_for_each_seed():
    c = config("compare: {members: {r: {sae: {kind: relu}, train: {lr: 1e-4}}}, curve: {k: [8, 16]}, companions: [r]}")
    members = compared(c, 3)
    assert [m.name for m in members] == ["topk-8", "topk-16", "r"]
    assert [m.train.seed for m in members] == [3, 3, 3]
    assert [m.runs_dir for m in members] == ["runs/s/seed-3"] * 3
    assert members[1].sae.settings["k"] == 16
    assert members[1].sae.settings["n_latents"] == 512
    assert members[2].train.lr == 1e-4
    (beside,) = companions(c, 3, {"r": 40.6})
    assert (beside.name, beside.sae.settings["k"]) == ("topk-like-r", 41)
    assert companions(c, 3, {}) == []  # a member that failed has none


# -- running -----------------------------------------------------------------------------------------------


def run_all(group: Group) -> None:
    store = group.prepare(fresh=False)
    with group.claimed():
        group.begin(fresh=False)
        group.train(store)
        group.evaluate(store)


def weights(directory: Path) -> dict[str, str]:
    return {path.parent.parent.name: sha256_file(path) for path in sorted(directory.rglob("sae/weights.safetensors"))}


SHORT = "eval: {reconstruction: {}}"


def short(text: str) -> str:
    return text.split("eval:")[0] + SHORT + "\n"


@pytest.mark.slow
def test_members_of_a_sweep_are_runs_of_their_own(config_text, reporter, tmp_path):
    base = short(config_text("s"))
    sweep = config("sweep: {grid: {sae.k: [4, 8]}}", base)
    group = Group(swept(sweep), group_directory(sweep), reporter)
    run_all(group)
    assert sorted(weights(tmp_path / "runs")) == ["k-4", "k-8"]
    alone = config("", base.replace("name: s", "name: alone"))
    run_all(Group([alone], group_directory(alone), reporter))
    assert weights(tmp_path / "runs")["k-8"] == weights(tmp_path / "runs")["alone"]
    for name in ("k-4", "k-8"):
        place = tmp_path / "runs" / "s" / name
        assert {"config.yaml", "metrics.jsonl", "summary.json", "eval.json"} <= {p.name for p in place.iterdir()}
        summary = json.loads((place / "summary.json").read_text())
        assert summary["on_one_stream_with"] == ["k-8" if name == "k-4" else "k-4"]
        assert summary["heldout"]["inference"]["l0"] <= int(name[2:])


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_stop_and_takes_in_a_new_member(config_text, reporter, tmp_path):
    base = short(config_text("s"))
    straight = config("sweep: {grid: {sae.k: [4, 8]}}", base + "runs_dir: straight\n")
    run_all(Group(swept(straight), group_directory(straight), reporter))

    sweep = config("sweep: {grid: {sae.k: [4, 8]}}", base)
    group = Group(swept(sweep), group_directory(sweep), reporter)
    store = group.prepare(fresh=False)

    class KilledError(Exception):
        pass

    def die(text: str, **_: object) -> None:
        if "train " in text and "k-4" in text:  # the first member is written, the second is not
            raise KilledError

    with group.claimed():
        group.begin(fresh=False)
        group.runs[0].reporter.say = die  # type: ignore[method-assign]
        with pytest.raises(KilledError):
            group.train(store)
    del reporter.__dict__["say"]
    assert sorted(weights(tmp_path / "runs")) == ["k-4"]
    more = config("sweep: {grid: {sae.k: [4, 8, 12]}}", base)
    run_all(Group(swept(more), group_directory(more), reporter))
    found = weights(tmp_path / "runs")
    assert sorted(found) == ["k-12", "k-4", "k-8"]
    assert {name: found[name] for name in ("k-4", "k-8")} == weights(tmp_path / "straight")


@pytest.mark.slow
def test_a_member_that_diverges_is_named_and_the_others_are_done(config_text, reporter, tmp_path):
    base = short(config_text("s")).replace("lr: 3e-3", "lr: 3e-3, grad_clip: null")
    sweep = config("sweep: {grid: {train.lr: [3e-3, 1e+30]}}", base)
    group = Group(swept(sweep), group_directory(sweep), reporter)
    run_all(group)
    assert list(weights(tmp_path / "runs")) == ["lr-0.003"]
    for _ in range(2):  # the same command again says so again
        with pytest.raises(RunFailedError, match=r"runs/s/lr-1e30: its loss or weights are no longer finite at step"):
            check_failures([group])
        run_all(group)
    other = config("sweep: {grid: {train.lr: [3e-3, 1e-3]}}", base)
    run_all(Group(swept(other), group_directory(other), reporter))
    assert sorted(weights(tmp_path / "runs")) == ["lr-0.001", "lr-0.003"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"only": ["topk-9"]}, "no member is called 'topk-9'(.|\n)*did you mean 'topk-8'"),
        ({"seeds": [4]}, "seed 4 is not of this comparison(.|\n)*one of 0, 1"),
    ],
)
def test_a_part_of_a_comparison_that_does_not_exist_is_refused(reporter, chosen, message):
    c = config("compare: {members: {r: {sae: {kind: relu}}}, curve: {k: [8]}, seeds: [0, 1]}")
    with pytest.raises(SaelabError, match=message):
        compare(c, reporter, fresh=False, **chosen)


@pytest.mark.slow
def test_a_comparison_trains_every_member_once_for_each_seed(config_text, reporter, tmp_path):
    base = short(config_text("c"))
    extra = "compare: {{seeds: [0, 1], curve: {{k: [4, 8]}}, members: {{{}}}, companions: [afa]}}"
    afa, absolute = "afa: {sae: {kind: top_afa, n_latents: 128}}", "abs: {sae: {kind: abs_topk, n_latents: 128, k: 8}}"

    def measured() -> set[str]:
        return {p.parent.relative_to(tmp_path / "runs" / "c").as_posix() for p in tmp_path.rglob("eval.json")}

    compare(config(extra.format(afa), base), reporter, fresh=False, only=("afa",), seeds=(1,))
    assert measured() == {"seed-1/afa", "seed-1/topk-like-afa"}
    compare(config(extra.format(afa), base), reporter, fresh=False)
    places = measured()
    names = ["topk-4", "topk-8", "afa", "topk-like-afa"]
    assert places == {f"seed-{seed}/{name}" for seed in (0, 1) for name in names}
    for seed in (0, 1):
        root = tmp_path / "runs" / "c" / f"seed-{seed}"
        l0 = json.loads((root / "afa" / "eval.json").read_text())["evaluations"]["reconstruction"]["metrics"]["l0"]
        assert json.loads((root / "topk-like-afa" / "sae" / "config.json").read_text())["settings"]["k"] == round(l0)
    found = family(config(extra.format(afa), base))
    assert found.complete
    assert [row.name for row in found.rows] == names
    assert [len(row.values["fvu"].values) for row in found.rows] == [2, 2, 2, 2]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("sae/weights.safetensors")}
    compare(config(extra.format(f"{afa}, {absolute}"), base), reporter, fresh=False)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("sae/weights.safetensors")}
    assert after.items() >= before.items()
    assert {path.parent.parent.name for path in after.keys() - before.keys()} == {"abs"}
    compare(config(extra.format(f"{afa}, {absolute}"), base), reporter, fresh=True)
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("sae/weights.safetensors")}
    assert again.keys() == after.keys()
    assert not again.items() & after.items()


@pytest.mark.slow
def test_a_sweep_on_a_stream_goes_on_after_a_stop_to_the_same_bits(config_text, reporter, tmp_path, monkeypatch):
    base = short(config_text("s")) + "source: {kind: stream, buffer_tokens: 512, sample_tokens: 1000}\n"
    sweep = config("sweep: {grid: {sae.k: [4, 8]}}", base)
    straight = config("sweep: {grid: {sae.k: [4, 8]}}", base + "runs_dir: straight\n")
    run_all(Group(swept(straight), group_directory(straight), reporter))

    group = Group(swept(sweep), group_directory(sweep), reporter)
    looks = iter(range(47))

    class Asked:
        signal = signal.SIGTERM
        requested = property(lambda _: next(looks, None) is None)

    monkeypatch.setattr("saelab.cli.group.stop_on_signals", lambda: nullcontext(Asked()))
    store = group.prepare(fresh=False)
    assert 1000 <= store.n_tokens("train") < 2000
    with group.claimed():
        group.begin(fresh=False)
        with pytest.raises(Interrupted, match="stopped at step 48 by SIGTERM; the same command goes on"):
            group.train(store)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run_all(Group(swept(sweep), group_directory(sweep), reporter))
    assert weights(tmp_path / "runs") == weights(tmp_path / "straight")
