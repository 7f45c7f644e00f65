"""What is tortured: a command on a tiny model, and the undisturbed ones that come before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from saelab.testing.tiny import tiny_model, tiny_text

CONFIG = "torture.yaml"


@dataclass(frozen=True)
class Phase:
    """One kind of work.

    Attributes:
        command: of saelab, that is killed.
        config: YAML beside what all phases share.
        done: what its files are called once some of the work is safe.
        prepared_by: commands that have ended well before.
    """

    name: str
    command: str
    config: str
    done: str
    prepared_by: tuple[str, ...] = ()


_TRAINING = """\
sae: {kind: batch_topk, n_latents: 256, k: 8}
train:
  {tokens: 24000, batch_tokens: 100, lr: 3e-3, warmup_steps: 10, dead_after_tokens: 2000,
   log_every_steps: 7, heldout_every_steps: 60, checkpoint_every_steps: 10}
"""
_STREAM = "source: {kind: stream, buffer_tokens: 3000, sample_tokens: 4000}\n"
_SWEEP = "sweep: {grid: {sae.k: [4, 8]}}\n"
_FEW_TOKENS = "activations: {hooks: [blocks.1.hook_resid_post], tokens: 4000, heldout_tokens: 600, \
shuffle_contexts: 16, shard_bytes: 20000, dir: store}\n"
_MANY_TOKENS = "activations: {hooks: [blocks.1.hook_resid_post, blocks.0.attn.hook_z], tokens: 16000, \
heldout_tokens: 2000, shuffle_contexts: 32, shard_bytes: 30000, dir: store}\n"

_SHARDS, _CHECKPOINTS = "shard-*.safetensors", "step-" + "[0-9]" * 8

PHASES = (
    Phase("caching", "cache", _MANY_TOKENS + _TRAINING, _SHARDS),
    Phase("training from a store", "train", _FEW_TOKENS + _TRAINING, _CHECKPOINTS, prepared_by=("cache",)),
    Phase("training from a stream", "train", _FEW_TOKENS + _TRAINING + _STREAM, _CHECKPOINTS, prepared_by=("cache",)),
    Phase("a sweep from a store", "train", _FEW_TOKENS + _TRAINING + _SWEEP, _CHECKPOINTS, prepared_by=("cache",)),
)


@dataclass(frozen=True)
class World:
    """A model and a text that all phases read."""

    model: Path
    text: Path

    @classmethod
    def make(cls, directory: Path) -> World:
        directory.mkdir(parents=True, exist_ok=True)
        model = tiny_model(directory / "model")
        return cls(model.resolve(), tiny_text(directory / "text.jsonl", documents=120).resolve())

    def config(self, phase: Phase) -> str:
        """The whole YAML; the store and the run lie in the directory that the command is started in."""
        shared = f"""\
            name: tiny
            model: {{name: {self.model}, dtype: float32, device: cpu}}
            data: {{dataset: {self.text}}}
            windows: {{context_length: 32, heldout_frac: 0.2}}
            """
        return dedent(shared) + phase.config
