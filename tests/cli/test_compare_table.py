"""`saelab compare --show` on run directories written by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from saelab.cli import app
from saelab.cli.expand import companions, compared
from saelab.cli.schema import RunConfig
from saelab.config import load_config, to_yaml

COMPARE = """\
compare:
  seeds: [0, 1]
  curve: {k: [4, 16]}
  members:
    signed: {sae: {kind: abs_topk, n_latents: 128, k: 8}}
    dense: {sae: {kind: relu, n_latents: 128}}
  companions: [dense]
"""


@pytest.fixture
def show(tmp_path, monkeypatch, capsys, config_text):
    """Calls the command; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    Path("family.yaml").write_text(config_text(name="family", extra=COMPARE))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saelab", "compare", "family.yaml", "--show", *arguments])
        with pytest.raises(SystemExit) as left:
            app.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def write_member(write_run):
    """Writes the directory of a member as `saelab compare` would, trained with these settings of its config changed."""
    config = load_config(RunConfig, Path("family.yaml"))
    (companion,) = companions(config, 0, {"dense": 40})
    members = {member.name: member for member in (*compared(config, 0), companion)}

    def write(name: str, state: str = "evaluated", *, seed: int = 0, trained=(), **found: float) -> None:
        place = write_run(Path(f"runs/family/seed-{seed}/{name}"), state, **found)
        (place / "config.yaml").write_text(to_yaml(members[name]))
        overrides = [f"train.seed={seed}", "eval={reconstruction: {}, downstream: {}}", *trained]
        changed = load_config(RunConfig, place / "config.yaml", overrides)
        (place / "config.yaml").write_text(to_yaml(changed))

    return write


def test_what_is_measured_so_far_is_set_out(show, write_member):
    for name, l0, fvu, ce in (
        ("topk-4", 4, 0.4, 0.6),
        ("topk-16", 16, 0.1, 0.9),
        ("signed", 8, 0.25, 0.75),
        ("dense", 40, 0.06, 0.95),
        ("topk-like-dense", 39, 0.05, 0.96),
    ):
        write_member(name, l0=l0, fvu=fvu, ce_score=ce)
    write_member("signed", "training", seed=1)
    document = json.loads(show("--json")[1])
    members = {member["name"]: member for member in document["members"]}
    assert list(members) == ["topk-4", "topk-16", "signed", "dense", "topk-like-dense"]
    assert (document["label"], document["curve"], document["complete"]) == ("topk", ["topk-4", "topk-16"], False)
    assert members["signed"]["reference"]["fvu_ratio"]["mean"] == pytest.approx(1.25)
    assert members["signed"]["unfinished"] == {"1": "training 3 %"}
    assert members["dense"]["reference"]["name"] == "topk-like-dense"
    assert members["dense"]["reference"]["fvu_ratio"]["mean"] == pytest.approx(1.2)

    code, out, _ = show()
    assert code == 0
    for text in (
        "topk at this L0",
        "1.250",
        "dense stands beside topk-like-dense, at L0 39.0.",
        "topk-4, seed 1: missing",
    ):
        assert text in " ".join(out.split())
    assert {path.name for path in Path("runs/family").glob("family.*")} == {
        f"family.{kind}" for kind in ("json", "csv", "md", "png", "svg")
    }


def test_runs_of_another_config_are_not_set_beside_the_others(show, write_member):
    write_member("topk-4", l0=4, fvu=0.4, trained=["train.tokens=51200"])
    write_member("topk-16", l0=16, fvu=0.1, trained=["runs_dir=elsewhere"])
    write_member("signed", l0=8, fvu=0.25, trained=["activations.dir=elsewhere"])
    write_member("dense", l0=50, fvu=0.06)
    write_member("topk-like-dense", l0=40, fvu=0.05)  # of when dense came out at 40
    (Path("runs/family/seed-1/dense")).mkdir(parents=True)
    (Path("runs/family/seed-1/dense/config.yaml")).write_text("nonsense")
    members = {member["name"]: member for member in json.loads(show("--json")[1])["members"]}
    for name in ("topk-4", "topk-like-dense"):
        assert members[name]["unfinished"] == {"0": "of another config", "1": "missing"}
    for name in ("topk-16", "signed", "dense"):
        assert members[name]["finished"] == [0]
    assert members["signed"].get("reference") is None  # the curve has one point
    assert members["dense"].get("reference") is None


def test_where_nothing_is_measured_nothing_is_written(show):
    code, out, _ = show()
    assert code == 0
    assert "signed, seed 0: missing" in " ".join(out.split())
    assert not Path("runs").exists()
