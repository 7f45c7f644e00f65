"""The short form of `make torture`, and that it would see a difference."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from . import artefacts
from .__main__ import torture
from .phases import PHASES
from .trial import Plan


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_everything_ends_the_same(tmp_path):
    phases = PHASES[:3]  # without the longest
    plan = Plan(kills=6, until=time.monotonic() + 500, seed=0, plainly=False)
    outcomes = torture(phases, tmp_path, plan, say=lambda _: None)
    assert [outcome.wrong for outcome in outcomes] == [[] for _ in phases]
    assert all(outcome.kills == 2 for outcome in outcomes)


def written(directory: Path) -> dict[str, str]:
    for name in ("store/shard-0.safetensors", "store/manifest.json", "runs/a/sae/weights.safetensors"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    (directory / "runs/a/metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "tokens_per_second": 3.0}\n')
    (directory / "runs/a/sae/config.json").write_text('{"provenance": {"git_revision": "1"}, "k": 8}')
    return artefacts.artefacts(directory)


def test_a_difference_is_seen_and_neither_speed_nor_revision_is_one(tmp_path):
    expected = written(tmp_path)
    (tmp_path / "runs/a/metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "tokens_per_second": 4.0}\n')
    (tmp_path / "runs/a/sae/config.json").write_text('{"provenance": {"git_revision": "2"}, "k": 8}')
    assert artefacts.differences(expected, artefacts.artefacts(tmp_path)) == []
    (tmp_path / "runs/a/sae/config.json").write_text('{"provenance": {"git_revision": "1"}, "k": 9}')
    (tmp_path / "runs/a/metrics.jsonl").write_text('{"step": 1, "loss": 2.1, "tokens_per_second": 3.0}\n')
    (tmp_path / "store/manifest.json").unlink()
    (tmp_path / "store/shard-1.safetensors.tmp-1").touch()
    (tmp_path / "runs/a/sae/weights.safetensors").write_text("other")
    assert artefacts.differences(expected, artefacts.artefacts(tmp_path)) == [
        "store/manifest.json is missing",
        "store/shard-1.safetensors.tmp-1 should not be there",
        "runs/a/metrics.jsonl differs",
        "runs/a/sae/config.json differs",
        "runs/a/sae/weights.safetensors differs",
    ]


def test_where_a_process_died(tmp_path):
    found = artefacts.snapshot(tmp_path)

    def place() -> str:
        return artefacts.place(found, artefacts.snapshot(tmp_path), done="step-[0-9]")

    assert place() == "before it wrote"
    (tmp_path / "metrics.jsonl").touch()
    assert place() == "before anything was done"
    (tmp_path / "step-1").mkdir()
    assert place() == "between files"
    half = tmp_path / "step-2.tmp-1"
    half.mkdir()
    (half / "state.json.tmp-2").touch()
    assert place() == "in a checkpoint"
