"""Damaged and hostile files: always a clear error, never a crash, never code run, never a file written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from saelab.errors import SaelabError
from saelab.sae import SAE
from tests.interop import mutations
from tests.interop.conftest import FIXTURES
from tests.interop.mutations import CODE_RAN, Change

GEMMA = "gemma_scope/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
CONFIGS = {
    "saelens/topk/cfg.json": ["d_in", "d_sae", "architecture", "k"],
    "saelens/matching_pursuit/cfg.json": ["d_in"],
    "saelens/jumprelu_skip_transcoder/cfg.json": ["d_in", "d_out", "d_sae", "architecture"],
    "sparsify/layers.1.mlp/cfg.json": ["d_in", "k", "transcode", "skip_connection"],
    "dictionary_learning/batch_topk/config.json": ["trainer"],
}
"""Configurations, and keys without a default."""
for key in ("dict_class", "activation_dim", "dict_size", "k"):
    CONFIGS["dictionary_learning/batch_topk/config.json"].append(f"trainer.{key}")
SAFETENSORS = (
    "saelens/jumprelu/sae_weights.safetensors",
    "saelens/gated/sae_weights.safetensors",
    "saelens/matryoshka_batchtopk_checkpoint/sae_weights.safetensors",
    "sparsify/layers.1.mlp/sae.safetensors",
)
PICKLED = ("dictionary_learning/matryoshka/ae.pt", "dictionary_learning/gated/ae.pt", "openai/relu/7.pt")
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


def _all() -> Iterator[tuple[str, str, Change]]:
    for file in (*CONFIGS, *SAFETENSORS, *PICKLED, f"{GEMMA}/params.npz"):
        for name, change in mutations.any_file((FIXTURES / file).read_bytes()):
            yield file, name, change
    for file, required in CONFIGS.items():
        whole = (FIXTURES / file).read_bytes()
        for name, change in (*mutations.config(whole), *mutations.without(whole, *required)):
            yield file, name, change
    for file in SAFETENSORS:
        for name, change in mutations.safetensors(FIXTURES / file):
            yield file, name, change
    for file in PICKLED:
        for name, change in mutations.pickled(FIXTURES / file, STATISTICS):
            yield file, name, change
    for name, change in mutations.arrays(FIXTURES / GEMMA / "params.npz"):
        yield f"{GEMMA}/params.npz", name, change


MUTATIONS = [pytest.param(file, change, id=f"{file}: {name}") for file, name, change in _all()]


def test_there_are_many():
    assert len(MUTATIONS) >= 300


@pytest.mark.parametrize(("file", "change"), MUTATIONS)
def test_damage_is_an_error_that_says_what_was_found(file, change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = FIXTURES / file
    directory = tmp_path / whole.parent.relative_to(FIXTURES)
    shutil.copytree(whole.parent, directory)
    change(directory / whole.name)
    before = sorted(tmp_path.rglob("*"))
    source = directory / whole.name if file.startswith("openai") else directory
    with pytest.raises(SaelabError) as error:
        SAE.load(source)
    said = str(error.value)
    assert str(directory) in said
    assert len(error.value.message) < 400
    assert said.isprintable() or "\n  fix: " in said
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path(CODE_RAN).exists()
