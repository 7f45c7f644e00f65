"""`saelab import` and `saelab export`: SAEs from elsewhere become runs, and runs become others' SAEs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from saelab.features import Bundle
from saelab.files import read_json, write_json
from saelab.interop import export
from saelab.sae import SAE, build
from tests.cli.test_cli import refused, saelab
from tests.interop.conftest import FIXTURES

__all__ = ["saelab"]  # a fixture

HOOK = "blocks.1.hook_resid_post"
OPTIONS = ("-o", "model.device=cpu", "-o", "model.dtype=float32", "-o", "windows.context_length=32")
SMALL = ("--tokens", "1500", "-o", "activations.heldout_tokens=300", "-o", "windows.heldout_frac=0.2")
MEASURED = ("-o", "eval={reconstruction: {}, density: {}, downstream: {contexts: 4, bootstrap_rounds: 20}}")


@pytest.fixture
def elsewhere(tmp_path, tiny_model_dir, tiny_text_file) -> Path:
    """An SAE of the tiny model as SAELens would have saved it, with complete metadata."""
    torch.manual_seed(0)
    sae = build("topk", 32, {"n_latents": 96, "k": 8}).sae.inference()
    sae.identity.provenance = {
        "model": {"name": str(tiny_model_dir)},
        "hook": HOOK,
        "data": {"dataset": str(tiny_text_file)},
        "windows": {"context_length": 32, "prepend_bos": True},
    }
    export(sae, tmp_path / "elsewhere", "saelens")
    return tmp_path / "elsewhere"


@pytest.mark.slow
def test_an_imported_sae_is_a_run_that_is_measured_indexed_and_listed(saelab, elsewhere):
    done = saelab("import", "elsewhere", "runs/theirs", *OPTIONS[:4], *SMALL, *MEASURED)
    assert done.returncode == 0, done.stderr
    assert "saelab eval runs/theirs" in done.stdout
    summary = read_json(Path("runs/theirs/summary.json"))
    assert (summary["imported"]["from"], summary["imported"]["format"]) == ("elsewhere", "saelens")
    assert summary["sae_sha256"] == SAE.load("runs/theirs/sae").sha256() == SAE.load("elsewhere").sha256()

    done = saelab("eval", "runs/theirs", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["evaluations"]
    assert found["reconstruction"]["metrics"]["l0"] == pytest.approx(8, abs=0.5)
    assert found["downstream"]["metrics"]["ce_clean_nats"] > 0
    done = saelab("index", "runs/theirs")
    assert done.returncode == 0, done.stderr
    assert Bundle(Path("runs/theirs/index")).n_latents == 96
    assert "theirs" in saelab("runs").stdout
    refused(saelab("import", "elsewhere", "runs/other", "-o", "train.lr=1"), "this one is trained already")
    (record,) = json.loads(saelab("runs", "--json").stdout)["runs"]
    assert (record["kind"], record["state"], record["tokens"], record["problems"]) == ("topk", "evaluated", None, [])


def test_it_is_at_work_in_its_model(saelab, elsewhere, lm):
    from saelab.features.live import Live

    assert saelab("import", "elsewhere", "runs/theirs", *OPTIONS[:4], *SMALL).returncode == 0
    live = Live.of(SAE.load("runs/theirs/sae"), lm)
    assert (live.hook.name, live.windows.context_length) == (HOOK, 32)


def test_what_is_not_in_the_files_is_asked_for(saelab, tiny_model_dir, tiny_text_file):
    shutil.copytree(FIXTURES / "openai" / "relu", "theirs")
    refused(saelab("import", "theirs/7.pt", "runs/x"), "give --model, --hook, --data")
    refused(saelab("import", "theirs/7.pt", "runs/x", "--hook", HOOK), "give --model, --data")
    given = ("--model", str(tiny_model_dir), "--hook", HOOK, "--data", str(tiny_text_file))
    refused(saelab("import", "theirs/7.pt", "runs/x", *given, *OPTIONS), "is 32 wide, and the SAE 8")
    given = (*given[:2], "--hook", "blocks.1.hook_resid", *given[4:])
    refused(saelab("import", "theirs/7.pt", "runs/x", *given, *OPTIONS), "unknown hook", "did you mean")
    assert not Path("runs").exists()


def test_options_win_over_the_files(saelab, elsewhere):
    given = ("--hook", "blocks.2.hook_resid_post", "-o", "windows.prepend_bos=false")
    assert saelab("import", "elsewhere", "runs/theirs", *given, *OPTIONS[:4], *SMALL).returncode == 0
    config = read_json(Path("runs/theirs/sae/config.json"))["provenance"]
    assert (config["hook"], config["windows"]["prepend_bos"]) == ("blocks.2.hook_resid_post", False)
    assert config["imported"]["origin"]["hook"] == HOOK


def test_a_context_longer_than_the_models_is_found_at_once(saelab, elsewhere):
    document = read_json(elsewhere / "cfg.json")
    document["metadata"]["context_size"] = 1024
    write_json(elsewhere / "cfg.json", document)
    done = saelab("import", "elsewhere", "runs/theirs", *OPTIONS[:4])
    refused(done, "contexts of 1024 tokens", "-o windows.context_length=64")
    assert not Path("runs").exists()


def test_an_import_that_fails_leaves_nothing(saelab, elsewhere, monkeypatch):
    (elsewhere / "sae_weights.safetensors").write_bytes(b"damage")
    refused(saelab("import", "elsewhere", "runs/theirs"), "not a readable safetensors file")
    assert not Path("runs").exists()


def test_an_import_that_cannot_be_finished_leaves_nothing(saelab, elsewhere, monkeypatch):
    def full(self: SAE, directory: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SAE, "save", full)
    refused(saelab("import", "elsewhere", "runs/theirs", *OPTIONS[:4], *SMALL), "the disk is full")
    assert list(Path("runs").iterdir()) == []


def test_a_run_is_not_overwritten_and_not_trained(saelab, elsewhere):
    arguments = ("import", "elsewhere", "runs/theirs", *OPTIONS[:4], *SMALL)
    assert saelab(*arguments).returncode == 0
    refused(saelab(*arguments), "this directory exists already")
    weights = Path("runs/theirs/sae/weights.safetensors").read_bytes()
    refused(saelab("train", "runs/theirs/config.yaml", "--fresh"), "was imported from elsewhere", "nothing to train")
    assert Path("runs/theirs/sae/weights.safetensors").read_bytes() == weights


@pytest.mark.parametrize("format", ["saelens", "sparsify", "dictionary_learning"])
def test_a_run_is_exported_and_comes_back(saelab, elsewhere, format):
    assert saelab("import", "elsewhere", "runs/theirs", *OPTIONS[:4], *SMALL).returncode == 0
    done = saelab("export", "runs/theirs", "out", "--format", format)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "topk, 96 latents -> out"
    state, there = SAE.load("runs/theirs/sae").state_dict(), SAE.load("out").state_dict()
    assert all(torch.equal(value, there[name]) for name, value in state.items())
    refused(saelab("export", "runs/theirs", "out", "--format", format), "this directory exists already")


def test_anything_that_loads_is_exported_and_what_cannot_be_is_refused(saelab):
    shutil.copytree(FIXTURES / "saelens" / "gated", "gated")
    done = saelab("export", "sae", "gated", "out", "--format", "dictionary_learning", "--json")
    assert json.loads(done.stdout)["sae_sha256"] == SAE.load("gated").sha256()
    refused(saelab("export", "gated", "more", "--format", "sparsify"), "sparsify cannot hold this SAE: this 'gated'")
    refused(saelab("export", "gated", "more", "--format", "sparcify"), "did you mean 'sparsify'")
    refused(saelab("export", "nothing", "more", "--format", "sparsify"), "does not exist")
    assert not Path("more").exists()


def test_transformer_lens_names_of_models_become_the_hubs(tiny_model_dir):
    from saelab.cli.importing import hub_name

    assert hub_name("pythia-70m-deduped") == "EleutherAI/pythia-70m-deduped"
    assert hub_name("gpt2-small") == hub_name("gpt2")
    assert hub_name("somebody/else") == "somebody/else"
    assert hub_name(str(tiny_model_dir)) == str(tiny_model_dir)


def test_features_are_exported_as_before(saelab):
    refused(saelab("export", "features", "runs/none", "--format", "html", "-o", "out"), "this run does not exist")
    assert "features" in saelab("export", "--help").stdout
