"""Shared fixtures: a tiny model and text in a cache directory of their own, no network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each core: more threads would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of the hub's library
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any import of triton: its kernels then run on CPU tensors


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from saelab.testing.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from saelab.testing.tiny import tiny_text

    return tiny_text(tmp_path_factory.mktemp("text") / "text.jsonl")


@pytest.fixture(scope="session")
def lm(tiny_model_dir: Path):
    from saelab.lm.model import ModelSpec, load

    return load(ModelSpec(str(tiny_model_dir), dtype="float32", device="cpu"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees another's cache, or the user's."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SAELAB_HOME", str(home))
    return home


@pytest.fixture
def config_text(tiny_model_dir: Path, tiny_text_file: Path) -> Callable[..., str]:
    """The YAML of a run that takes a second; keyword arguments are extra lines."""

    def make(name: str = "tiny", extra: str = "") -> str:
        return f"""\
name: {name}
model: {{name: {tiny_model_dir}, dtype: float32, device: cpu}}
data: {{dataset: {tiny_text_file}}}
windows: {{context_length: 32, heldout_frac: 0.2}}
activations:
  hooks: [blocks.1.hook_resid_post]
  tokens: 3000
  heldout_tokens: 600
  shuffle_contexts: 16
  shard_bytes: 20000
sae: {{kind: topk, n_latents: 128, k: 8}}
train:
  {{tokens: 12800, batch_tokens: 128, lr: 3e-3, warmup_steps: 10, dead_after_tokens: 2000,
   log_every_steps: 5, checkpoint_every_steps: 20, heldout_every_steps: 20}}
eval:
  reconstruction: {{}}
  density: {{}}
  downstream: {{contexts: 8, bootstrap_rounds: 50}}
{extra}"""

    return make


@pytest.fixture
def store(lm: Any, tiny_text_file: Path, tmp_path: Path):
    from saelab.activations import CaptureSpec, capture
    from saelab.lm.corpus import DataSpec
    from saelab.lm.mask import MaskSpec
    from saelab.lm.windows import WindowSpec

    spec = CaptureSpec(
        hooks=("blocks.1.hook_resid_post", "blocks.0.attn.hook_z"),
        tokens=2000,
        heldout_tokens=300,
        dtype="float32",
        shuffle_contexts=16,
        shard_bytes=60_000,
        dir=str(tmp_path / "store"),
    )
    return capture(lm, DataSpec(str(tiny_text_file)), WindowSpec(context_length=32, heldout_frac=0.2), MaskSpec(), spec)


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """Writes a run's directory by hand, as far as `state` says; keyword arguments are what evaluators found."""
    from saelab.files import write_json, write_text
    from saelab.training.run_directory import RunDirectory

    def write(path: Path, state: str = "evaluated", *, kind: str = "topk", sae_sha256: str = "a", **found: float):
        eval_lines = "eval: {reconstruction: {}, downstream: {}}\n"
        text = f"name: {path.name}\nsae: {{kind: {kind}, n_latents: 64, k: 8}}\n{eval_lines}"
        write_text(path / "config.yaml", text + "train: {tokens: 1050, batch_tokens: 100, seed: 3}\n")
        line = '{"step": %d, "tokens": %d.0, "tokens_per_second": 90.0, "metrics/l0": 7.5%s}\n'
        heldout = ', "heldout/fvu": 0.5, "heldout/l0": 7.25'
        write_text(path / "metrics.jsonl", line % (2, 200, heldout) + line % (4, 400, "") + '{"step": 5, "tok')
        if state == "failed":
            RunDirectory(path).write_failure("its loss is no longer finite at step 5")
        if state in ("training", "failed"):
            return path
        summary = {"tokens": 1000, "tokens_per_second": 100.0, "sae_sha256": sae_sha256}
        forms = {"training": {"fvu": 0.41, "l0": 8.0}, "inference": {"fvu": 0.4, "l0": 7.9}}
        write_json(path / "summary.json", summary | {"heldout": forms})
        write_json(path / "sae" / "config.json", {"kind": kind, "settings": {"n_latents": 64, "k": 8}})
        if state == "evaluated":
            metrics = {"fvu": 0.3, "l0": 8.0, "ce_score": 0.9, "dead_frac": 0.25} | found
            parts = {"reconstruction": {"metrics": metrics}, "downstream": {"metrics": {}}}
            write_json(path / "eval.json", {"sae_sha256": "a", "evaluations": parts})
        return path

    return write
