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
PICKLED = ("dictionary_learning/matryoshka/ae.pt", "dictionary_learning/gated/ae.pt", "openai/topk/7.pt")
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


FILES = (*CONFIGS, *SAFETENSORS, *PICKLED, f"{GEMMA}/params.npz")


def damages(file: str) -> Iterator[tuple[str, Change]]:
    """Every mutation of a fixture's file."""
    path = FIXTURES / file
    whole = path.read_bytes()
    yield from mutations.any_file(whole)
    if file in CONFIGS:
        yield from mutations.config(whole)
        yield from mutations.without(whole, *CONFIGS[file])
    elif file in SAFETENSORS:
        yield from mutations.safetensors(path)
    elif file in PICKLED:
        yield from mutations.pickled(path, STATISTICS)
    else:
        yield from mutations.arrays(path)


def test_there_are_many():
    assert sum(1 for file in FILES for _ in damages(file)) >= 1000


@pytest.mark.parametrize("file", FILES)
def test_damage_is_an_error_that_says_what_was_found(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = FIXTURES / file
    directory = tmp_path / whole.parent.relative_to(FIXTURES)
    shutil.copytree(whole.parent, directory)
    complaints = {}
    for name, change in damages(file):
        place = directory / whole.name
        change(place)
        if complaint := what_is_wrong(directory, place, tmp_path):
            complaints[name] = complaint
        place.rmdir() if place.is_dir() else place.unlink(missing_ok=True)
        shutil.copy(whole, place)
    SAE.load(directory / whole.name if file.startswith("openai") else directory)  # it was the damage, then
    assert complaints == {}


def what_is_wrong(directory: Path, place: Path, root: Path) -> str | None:
    """With how a damaged SAE is met; None where that is by a clear error, and nothing more."""
    before = sorted(root.rglob("*"))
    try:
        SAE.load(place if "openai" in place.parts else directory)
        return "it was loaded"
    except SaelabError as error:
        said = f"{error.where}: {error.message}"
        if str(directory) not in said or len(error.message) >= 400 or not said.isprintable():
            return said
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if Path(CODE_RAN).exists():
        return "code was run"
    return "it wrote files" if sorted(root.rglob("*")) != before else None
