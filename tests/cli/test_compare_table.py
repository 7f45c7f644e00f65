"""`saelab compare --show` on run directories written by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from saelab.cli import app

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


def test_what_is_measured_so_far_is_set_out(show, write_run):
    place = Path("runs/family/seed-0")
    for name, l0, fvu, ce in (
        ("topk-4", 4, 0.4, 0.6),
        ("topk-16", 16, 0.1, 0.9),
        ("signed", 8, 0.25, 0.75),
        ("dense", 40, 0.06, 0.95),
        ("topk-like-dense", 39, 0.05, 0.96),
    ):
        write_run(place / name, l0=l0, fvu=fvu, ce_score=ce)
    write_run(Path("runs/family/seed-1/signed"), "training")
    document = json.loads(show("--json")[1])
    members = {member["name"]: member for member in document["members"]}
    assert list(members) == ["topk-4", "topk-16", "signed", "dense", "topk-like-dense"]
    assert (document["label"], document["curve"], document["complete"]) == ("topk", ["topk-4", "topk-16"], False)
    assert members["signed"]["reference"]["fvu_ratio"]["mean"] == pytest.approx(1.25)
    assert members["signed"]["unfinished"] == {"1": "training 40 %"}
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


def test_where_nothing_is_measured_nothing_is_written(show):
    code, out, _ = show()
    assert code == 0
    assert "signed, seed 0: missing" in " ".join(out.split())
    assert not Path("runs").exists()
