"""What of a config decides the weights, and whether a run on disk was trained so."""

from __future__ import annotations

from typing import Any

from saelab.cli.schema import RunConfig
from saelab.config import as_dict, load_config
from saelab.training.run_directory import RunDirectory

_ELSEWHERE = frozenset({"eval", "index", "runs_dir", "sweep", "compare"})
_RHYTHM = frozenset(
    {
        *("log_every_steps", "heldout_every_steps", "heldout_tokens", "checkpoint_every_steps", "keep_checkpoints"),
        *("milestones", "milestone_first_step", "wandb", "tensorboard", "trackio"),
    }
)


def what_trains(config: RunConfig) -> dict[str, Any]:
    """The part of a config that decides the weights: not where things go, what is logged or measured."""
    document = {key: value for key, value in as_dict(config).items() if key not in _ELSEWHERE}
    kept = {key: value for key, value in document["train"].items() if key not in _RHYTHM}
    activations = {key: value for key, value in document["activations"].items() if key != "dir"}
    return document | {"train": kept, "activations": activations}


def changed_settings(directory: RunDirectory, config: RunConfig) -> list[str]:
    """Dotted keys in which the run in a directory was trained otherwise than `config` says; none without its config.

    Raises:
        SaelabError: its config cannot be read.
    """
    if not directory.config.exists():
        return []
    return _differences(what_trains(load_config(RunConfig, directory.config)), what_trains(config))


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    return [] if old == new else [path]
