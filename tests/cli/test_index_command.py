"""`saelab index`, and the index at the end of `saelab run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saelab.features import Bundle
from tests.cli.test_cli import process, refused, saelab

__all__ = ["saelab"]  # a fixture
pytestmark = pytest.mark.slow


@pytest.fixture
def run(saelab, config_text) -> Path:
    Path("tiny.yaml").write_text(config_text())
    assert saelab("run", "tiny.yaml").returncode == 0
    return Path("runs/tiny")


def test_a_run_ends_with_an_index_and_the_line_that_opens_the_browser(saelab, config_text):
    Path("tiny.yaml").write_text(config_text())
    done = saelab("run", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("saelab browse runs/tiny")
    bundle = Bundle(Path("runs/tiny/index"))
    assert (bundle.n_latents, bundle.manifest["map"]) == (128, "pca")
    assert bundle.n_tokens >= 2800
    assert bundle.token(bundle.context(0).tokens[1]) != ""


def test_a_run_may_go_without_an_index(saelab, config_text):
    Path("tiny.yaml").write_text(config_text(extra="index: null"))
    done = saelab("run", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert not Path("runs/tiny/index").exists()
    assert "saelab browse" not in done.stdout


def test_an_index_is_found_built_anew_and_built_on_other_text(saelab, run, tiny_text_file):
    first = Bundle(run / "index").manifest
    document = json.loads(saelab("index", "runs/tiny", "--json").stdout)
    assert document == first
    heldout = json.loads(saelab("index", "runs/tiny", "-o", "index.split=heldout", "--json").stdout)
    assert heldout["numbers"]["tokens"] < first["numbers"]["tokens"]
    other = Path("other.jsonl")
    other.write_text("".join(json.dumps({"text": f"text {i} of another kind, " * 20}) + "\n" for i in range(40)))
    done = saelab("index", "runs/tiny", "--data", "other.jsonl", "--tokens", "800")
    assert done.returncode == 0, done.stderr
    bundle = Bundle(run / "index")
    text = "".join(bundle.token(token) for token in bundle.context(0).tokens)
    assert "of another kind" in text
    assert bundle.manifest["content"]["store"] != first["content"]["store"]


def test_an_index_of_what_is_not_there_is_refused(saelab, run):
    refused(saelab("index", "runs/none"), "this is not a run")
    refused(saelab("index", "runs/tiny", "-o", "index.top=0"), "index.top", "must be at least 1")
    refused(saelab("index", "runs/tiny", "-o", "train.lr=1"), "only eval.* and index.* can be overridden here")
    (run / "sae" / "config.json").unlink()
    refused(saelab("index", "runs/tiny"), "this run has no trained SAE yet")


def test_an_index_built_anew_has_the_same_bytes(run, tmp_path):
    before = {p.name: p.read_bytes() for p in (run / "index").iterdir() if p.is_file() and p.name != ".lock"}
    done = process("index", "runs/tiny", "--again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    after = {p.name: p.read_bytes() for p in (run / "index").iterdir() if p.is_file() and p.name != ".lock"}
    assert after == before
