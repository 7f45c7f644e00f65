"""A few activations many times the usual length: what they take of a shared budget, and what keeps them out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from saelab.cli.schema import RunConfig
from saelab.config import parse_config
from saelab.sae import SparseCode
from saelab.training.member import outlier_entries


def test_entries_of_tokens_ten_times_the_median_are_counted():
    x = torch.ones(20, 4)
    x[3] *= 30
    x[4] *= 9
    dense = torch.zeros(20, 6)
    dense[3, :5] = 1.0
    dense[4, :2] = 1.0
    dense[5:, 0] = 1.0
    assert int(outlier_entries(x, SparseCode.from_dense(dense))) == 5
    assert int(outlier_entries(x[:0], SparseCode.from_dense(dense[:0]))) == 0


@pytest.fixture
def outlier_config(tmp_path: Path, config_text, tiny_model_dir: Path):
    """A run on a model with a character (`k`) whose embedding, and so residual stream, is 30 times the usual."""
    import shutil

    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    model = shutil.copytree(tiny_model_dir, tmp_path / "outlier-model")
    weights = load_file(model / "model.safetensors")
    letter = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids("k")
    weights["model.embed_tokens.weight"][letter] *= 30
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})

    def make(name: str, **mask) -> RunConfig:
        document = yaml.safe_load(config_text(name).replace("lr: 3e-3", "lr: 0.003"))
        document["model"]["name"] = str(model)
        document["sae"] = {"kind": "batch_topk", "n_latents": 128, "k": 8}
        document["train"]["tokens"] = 128 * 20
        document["mask"] = mask
        return parse_config(RunConfig, yaml.safe_dump(document))

    return make


@pytest.mark.slow
def test_the_norm_filter_keeps_outliers_from_the_budget_and_a_run_without_it_says_what_they_took(
    outlier_config, tmp_path, monkeypatch, capsys
):
    from rich.console import Console

    from saelab.cli.console import Reporter
    from saelab.cli.expand import group_directory
    from saelab.cli.group import Group

    monkeypatch.chdir(tmp_path)
    shares: dict[str, float] = {}
    for name, mask in (("without", {}), ("with", {"max_norm_ratio": 10.0})):
        config = outlier_config(name, **mask)
        group = Group([config], group_directory(config), Reporter(Console(width=300)))
        store = group.prepare(fresh=False)
        with group.claimed():
            group.begin(fresh=False)
            group.train(store)
        (run,) = group.runs
        lines = [json.loads(line) for line in run.directory.metrics.read_text().splitlines()]
        shares[name] = json.loads(run.directory.summary.read_text())["outlier_share"]
        logged = [line["metrics/outlier_share"] for line in lines if "metrics/outlier_share" in line]
        assert logged
        said = capsys.readouterr().out
        if name == "with":
            assert sum(store.manifest["masked_tokens"][split]["norm"] for split in ("train", "heldout")) > 0
            assert "the norm filter left out" in said
            assert max(logged) == 0.0
            assert "budget that tokens share" not in said
        else:
            norms = store.read(store.of("train")[0])["blocks.1.hook_resid_post"].float().norm(dim=1)
            assert 20 < float(norms.max() / norms.median()) < 40
            assert max(logged) > 0.0
            assert "times longer than the median took" in said
            assert "mask.max_norm_ratio keeps them out" in said
    assert shares["with"] == 0.0
    assert shares["without"] > 0.02
