"""Checkpoints: directories that are complete or absent, the newest few kept.

`state.safetensors` holds every tensor (members' weights, optimiser moments, trackers); `state.json` the step, the
batches' position, what "auto" was resolved to, and the sha256 of the other.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saelab import __version__
from saelab.errors import SaelabError
from saelab.files import atomic_directory, read_json, read_tensors, sha256_file, sweep_temporaries, write_json, writing

TENSORS = "state.safetensors"
STATE = "state.json"
_STATE_KEYS = {"precision", "failed", "store", "batches", "clock", "numerics"}
_FIX = "delete this checkpoint to go on from an older one, or start over with --fresh"


@dataclass(frozen=True)
class Checkpoint:
    """A training run at rest.

    Attributes:
        step: steps done.
        tensors: by name, members' prefixed by their own.
        state: JSON-able rest.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(directory: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write `directory/step-...` and drop all but the newest `keep`."""
    from safetensors.torch import save_file

    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(directory)
    path = directory / f"step-{checkpoint.step:08d}"
    if not path.exists():
        with atomic_directory(path) as temporary:
            tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
            save_file(tensors, temporary / TENSORS)
            document = {
                "saelab": __version__,
                "step": checkpoint.step,
                "sha256": sha256_file(temporary / TENSORS),
                "state": checkpoint.state,
            }
            write_json(temporary / STATE, document)
    for old in existing(directory)[:-keep]:
        with writing(old):
            shutil.rmtree(old)


def existing(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in directory.glob("step-" + "[0-9]" * 8) if path.is_dir())


def members(directory: Path) -> set[str]:
    """Names of the SAEs that the newest checkpoint holds, or held until they failed; none where there is none.

    Raises:
        SaelabError: it is damaged.
    """
    found = existing(directory)
    if not found:
        return set()
    state = _document(found[-1])["state"]
    return {*state["precision"], *state["failed"]}


def load_newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint, or None.

    Raises:
        SaelabError: it is damaged.
    """
    found = existing(directory)
    if not found:
        return None
    path = found[-1]
    document = _document(path)
    try:
        tensors = read_tensors(path / TENSORS)
    except SaelabError as error:
        raise SaelabError(f"this checkpoint is damaged: {error}", where=str(path), fix=_FIX) from error
    if sha256_file(path / TENSORS) != document["sha256"]:
        raise SaelabError("this checkpoint is damaged: its sha256 is not what was written", where=str(path), fix=_FIX)
    return Checkpoint(document["step"], tensors, document["state"])


def _document(path: Path) -> dict[str, Any]:
    """What `state.json` of a checkpoint says, complete."""
    try:
        document = read_json(path / STATE)
    except SaelabError as error:
        raise SaelabError(f"this checkpoint is damaged: {error}", where=str(path), fix=_FIX) from error
    whole = isinstance(document, dict) and isinstance(document.get("step"), int) and "sha256" in document
    if not whole or not document.get("state", {}).keys() >= _STATE_KEYS:
        raise SaelabError(f"this checkpoint is damaged: {STATE} is not complete", where=str(path), fix=_FIX)
    return document
