"""SAEs onto the hub, by a stand-in for it on this machine, and the cards that go with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import yaml

from saelab.errors import SaelabError
from saelab.files import write_json
from saelab.interop.card import Card, Metric, code, prose
from saelab.sae import SAE
from tests.interop.conftest import FIXTURES, LATENTS, D
from tests.interop.hub_stand_in import Repo

# -- pushing -----------------------------------------------------------------------------------------------------


def pushed(*arguments: object) -> Any:
    from typer.testing import CliRunner

    from saelab.cli.app import app

    return CliRunner().invoke(app, ["push", *map(str, arguments)], catch_exceptions=False)


def test_a_run_is_published_and_loads_again_in_every_format(hub, run, sae):
    pushed(run, "org/mine", "--format", "saelens", "--format", "sparsify", "--format", "dictionary_learning")
    files = hub.repos["org/mine"].files
    assert sorted(files) == [
        "README.md",
        "config.json",
        "dictionary_learning/ae.pt",
        "dictionary_learning/config.json",
        "saelens/cfg.json",
        "saelens/sae_weights.safetensors",
        "sparsify/layers.7/cfg.json",
        "sparsify/layers.7/sae.safetensors",
        "weights.safetensors",
    ]
    assert len(hub.repos["org/mine"].commits) == 1
    assert SAE.load("hf://org/mine").sha256() == sae.sha256()
    x = torch.randn(5, D)
    for path in ("saelens", "sparsify/layers.7", "dictionary_learning"):
        torch.testing.assert_close(SAE.load(f"hf://org/mine/{path}")(x), sae(x))
    assert files["README.md"] == (run / "card.md").read_bytes()


def test_the_usual_formats_go_along_and_what_cannot_is_said(hub, run, make):
    import shutil

    shutil.rmtree(run / "sae")
    other = make("batch_topk")
    other.save(run / "sae")
    (run / "eval.json").unlink()
    result = pushed(run, "org/mine")
    assert {path.partition("/")[0] for path in hub.repos["org/mine"].files} == {
        "README.md",
        "config.json",
        "weights.safetensors",
        "saelens",
    }
    assert "sparsify cannot hold this SAE" in result.output
    card = hub.repos["org/mine"].files["README.md"].decode()
    assert "Not with sparsify: sparsify cannot hold this SAE" in card
    assert "None were made." in card
    with pytest.raises(SaelabError, match="sparsify cannot hold this SAE"):
        pushed(run, "org/mine", "--format", "sparsify")


def test_a_dry_run_uploads_nothing_and_leaves_the_card_to_look_at(hub, run):
    result = pushed(run, "org/mine", "--dry-run", "--json")
    said = json.loads(result.output)
    assert said["url"] is None
    assert said["sizes"]["weights.safetensors"] == (run / "sae" / "weights.safetensors").stat().st_size
    assert "saelens/cfg.json" in said["sizes"]
    assert (run / "card.md").read_text().startswith("---\nlibrary_name: saelab\n")
    assert (hub.log, hub.repos) == ([], {})


def test_pushing_again_takes_away_what_is_no_longer_there(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    pushed(run, "org/mine", "--private")
    assert hub.repos["org/mine"].private
    before = hub.repos["org/mine"]
    before.commit(before.files | {"picture.png": b"1", "saelens/old.json": b"{}"})
    done = pushed(run, "org/mine", "--format", "saelab")
    assert "removed  saelens/old.json" in done.output
    assert sorted(before.files) == ["README.md", "config.json", "picture.png", "weights.safetensors"]


def test_a_card_of_one_s_own_is_taken(hub, run, tmp_path):
    (tmp_path / "mine.md").write_text("# Mine")
    pushed(run, "org/mine", "--card", tmp_path / "mine.md")
    assert hub.repos["org/mine"].files["README.md"] == b"# Mine"
    assert not (run / "card.md").exists()
    with pytest.raises(SaelabError, match="there is no such file"):
        pushed(run, "org/mine", "--card", tmp_path / "none.md")


def test_what_must_not_be_overwritten_is_not(hub, run):
    for files in (
        {"config.json": b"{}", "model.safetensors": b"0"},
        {"config.json": b"{}"},
        {"data.csv": b"1"},
        {"saelens/layer5/cfg.json": b"{}", "README.md": b"somebody's"},
        {"config.json": b"{}", "weights.safetensors": b"0"},
        {"config.json": b"\xff", "weights.safetensors": b"0"},
    ):
        repo = hub.repos["org/model"] = Repo()
        repo.commit(files)
        with pytest.raises(SaelabError, match=r"holds files that no SAE here has .*\n  fix: choose another name"):
            pushed(run, "org/model")
        assert len(repo.commits) == 1


def test_whether_a_repository_is_private_is_its_owner_s_to_say(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    pushed(run, "org/mine")
    assert hub.asked["org/mine"] == {}
    with pytest.raises(SaelabError, match=r"hf://org/mine: this repository is public\n  fix: make it private"):
        pushed(run, "org/mine", "--private")
    assert len(hub.repos["org/mine"].commits) == 1


def test_no_room_for_an_export_is_no_format_s_fault(run, monkeypatch):
    from saelab import interop

    def full(*_):
        raise SaelabError("could not write this file: the disk is full")

    monkeypatch.setattr(interop, "export", full)
    with pytest.raises(SaelabError, match="the disk is full"):
        pushed(run, "org/mine", "--dry-run")
    assert not (run / "card.md").exists()


def test_what_cannot_be_pushed_is_said(hub, run, tmp_path):
    with pytest.raises(SaelabError, match="names no repository"):
        pushed(run, "mine")
    with pytest.raises(SaelabError, match="no trained SAE here"):
        pushed(tmp_path / "none", "org/mine")
    with pytest.raises(SaelabError, match=r"'saelense' cannot be pushed\n  fix: did you mean 'saelens'"):
        pushed(run, "org/mine", "--format", "saelense")
    hub.read_only = True
    with pytest.raises(SaelabError, match=r"hf://org/mine: the hub refuses this: .*\n  fix: hf auth login"):
        pushed(run, "org/mine")
    document = json.loads((run / "eval.json").read_text())
    write_json(run / "eval.json", document | {"sae_sha256": "other"})
    with pytest.raises(SaelabError, match="measurements of another SAE"):
        pushed(run, "org/mine")


@pytest.mark.slow
def test_the_command_line_reads_the_hub_s_own_settings(hub, run, tmp_path):
    """As a user does it: a process of its own, with HF_ENDPOINT."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "saelab.cli", "push", str(run), "org/mine"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "weights.safetensors" in done.stdout
    assert SAE.load("hf://org/mine").n_latents == LATENTS


# -- the card ----------------------------------------------------------------------------------------------------


def test_the_card_says_what_it_is_how_it_measures_and_how_to_load_it(run, hub):
    pushed(run, "org/mine")
    text = (run / "card.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "library_name": "saelab",
        "tags": ["sparse-autoencoder", "mechanistic-interpretability", "saelab", "saelens", "sparsify"],
        "base_model": "gpt2",
        "datasets": ["some/text"],
    }
    for part in (
        "# mine",
        "| Trained on | 123,456 tokens |",
        "| `fvu` | 0.25 | 0.2 to 0.3 | 36,062 tokens | share of variance \\| not reconstructed |",
        "<details><summary>probing</summary>",
        "| `accuracy` | 0.75 |  | 100 examples |  |",
        "position 0 of every context; the special tokens with the ids \\[0, 2\\]; activations longer than 40",
        'SAE.load("hf://org/mine")',
        'SAE.from_pretrained("org/mine", "saelens")',
        'SparseCoder.load_from_hub("org/mine", hookpoint="sparsify/layers.7")',
        "k: 6",
        "dataset: '.../text.jsonl'",
    ):
        assert part in text, part
    assert "someone" not in text


def test_the_card_claims_nothing_that_saelab_cannot_know(make):
    sae = make("relu")
    assert "trained with saelab" in Card("org/mine", "mine", sae).text()
    sae.identity.provenance = {"data": {"files": {"train/x.jsonl": "1"}, "text_column": "text"}}
    text = Card("org/mine", "mine", sae).text()
    assert "`train/x.jsonl`" in text
    assert "datasets" not in yaml.safe_load(text.split("---\n")[1])
    there = SAE.load(FIXTURES / "saelens" / "topk")
    text = Card("org/mine", "mine", there, metrics={"reconstruction": [Metric("fvu", 1.0, "9 tokens")]}).text()
    assert "brought into saelab's format from that of SAELens" in text
    assert "whether training had seen it is not known" in text
    assert "training did not see" not in text
    assert "trained with saelab" not in text


def test_nobody_s_text_means_anything_in_a_card(make):
    evil = "x` | </td><script>alert(1)</script>\n---\nlicense: evil\n# [a](javascript:b) ![c](d) `` ``` *e*"
    sae = make("topk")
    sae.identity.provenance = {"hook": evil, "data": {"dataset": evil}, "model": {"name": evil}, "trained_tokens": evil}
    metrics = {evil: [Metric(evil, 1.0, evil, None, evil)]}
    text = Card("org/mine", evil, sae, evil, metrics, f"a: 1\n```\n{evil}", {}, {"saelens": evil}).text()
    front, _, body = text.removeprefix("---\n").partition("---\n")
    assert set(yaml.safe_load(front)) == {"library_name", "tags"}
    outside = "".join(body.split("````yaml")[0])
    for line in outside.splitlines():
        assert not line.startswith(("---", "license", "# [")), line
    html = rendered(text)
    assert "<script" not in html
    assert "javascript:" not in html.replace("javascript:b)", "")
    assert "<img" not in html
    assert "<em>" not in html


def rendered(text: str) -> str:
    """As HTML, by a Markdown library that lets HTML through as GitHub and the hub do before they filter it."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])


def test_prose_and_code_hold_what_they_are_given():
    assert prose("a|b\n<c>") == r"a\|b \<c\>"
    assert code("a`b") == "``a`b``"
    assert code("`") == "`` ` ``"
    assert code("a|b\n") == r"`a\|b`"
    assert prose("blocks.7.hook") == "blocks.7.hook"
