"""Runs for the live pages, made by the command line as a user makes them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from saelab.training.run_directory import RunDirectory

CONFIG = """\
name: {name}
model: {{name: {model}, dtype: float32, device: cpu}}
data: {{dataset: {text}}}
windows: {{context_length: 32, heldout_frac: 0.2}}
activations:
  {{hooks: [blocks.1.hook_resid_post], tokens: 3000, heldout_tokens: 600, shuffle_contexts: 16, shard_bytes: 20000}}
sae: {{kind: topk, n_latents: 128, k: 8}}
train:
  {{tokens: 6400, batch_tokens: 128, lr: 3e-3, warmup_steps: 10, log_every_steps: 5, heldout_every_steps: 20,
   seed: {seed}}}
eval: {{reconstruction: {{}}}}
index: {{map: none}}
"""


def make_runs(root: Path, model: Path, text: Path) -> Path:
    """`root/runs` with `one` and `two` (trained, measured, indexed), `going` (training), `failed`, and `noindex`."""
    from saelab.cli import app

    root.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SAELAB_HOME", str(root / "home"))
        for seed, name in enumerate(("one", "two")):
            config = root / f"{name}.yaml"
            config.write_text(CONFIG.format(name=name, model=model, text=text, seed=seed))
            patch.setattr(sys, "argv", ["saelab", "run", str(config)])
            with pytest.raises(SystemExit) as ended:
                app.main()
            assert not ended.value.code
    runs = root / "runs"
    shutil.copytree(runs / "two", runs / "noindex", ignore=shutil.ignore_patterns("index", "checkpoints"))
    for name in ("going", "failed"):
        (runs / name).mkdir()
        shutil.copy(runs / "one" / "config.yaml", runs / name)
        lines = (runs / "one" / "metrics.jsonl").read_text().splitlines(keepends=True)
        (runs / name / "metrics.jsonl").write_text("".join(lines[:4]) + '{"step": 25, "losses/to')
    RunDirectory(runs / "failed").write_failure("its loss is no longer finite at step 25")
    return runs


def log(runs: Path, name: str, step: int, **metrics: float) -> None:
    """One more line, as a training writes it."""
    with (runs / name / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "tokens": 128.0 * step, **metrics}) + "\n")
