"""What a directory holds: what must come out the same, and where a process was when it was killed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from saelab.files import sha256_file, sha256_json

VARYING = {"tokens_per_second", "git_revision"}
"""Fields that may differ from run to run: of the clock, and of whoever works on saelab meanwhile."""
_SAME = ("store/*.safetensors", "store/manifest.json", "runs/**/sae/weights.safetensors")
_TEMPORARY = "*.tmp-*"
_NAMES = {"step": "a checkpoint", "shard": "a shard", "shards": "the index", "sae": "the SAE"}

Snapshot = dict[Path, int]
"""Files and directories, and when they were changed (ns)."""


def artefacts(directory: Path) -> dict[str, str]:
    """A hash by relative path of all that must be equal: shards and manifest, the SAE, the newest checkpoint's tensors,
    metrics; and whatever was left half-written, which must not be there."""
    files = [path for pattern in _SAME for path in directory.glob(pattern)]
    for checkpoints in directory.glob("runs/**/checkpoints"):
        files += sorted(checkpoints.glob("step-*/state.safetensors"))[-1:]
    found = {str(path.relative_to(directory)): sha256_file(path) for path in files}
    for path in directory.glob("runs/**/sae/config.json"):
        found[str(path.relative_to(directory))] = sha256_json(json.loads(path.read_text(), object_hook=_lasting))
    for path in directory.glob("runs/**/metrics.jsonl"):
        lines = [json.loads(line, object_hook=_lasting) for line in path.read_text().splitlines()]
        found[str(path.relative_to(directory))] = sha256_json(lines)
    return found | {str(path.relative_to(directory)): "left over" for path in directory.rglob(_TEMPORARY)}


def _lasting(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in VARYING}


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is not the same, in words."""
    words = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    words += [f"{name} should not be there" for name in sorted(found.keys() - expected.keys())]
    return words + [f"{name} differs" for name in sorted(expected) if found.get(name, expected[name]) != expected[name]]


def being_written(directory: Path) -> set[Path]:
    """Files and directories that have not got their name yet, left over or in the making."""
    try:
        return set(directory.rglob(_TEMPORARY))
    except FileNotFoundError:  # one became what it was written for while this looked
        return set()


def snapshot(directory: Path) -> Snapshot:
    """Of everything but the log."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.suffix != ".txt"}


def place(before: Snapshot, after: Snapshot, done: str) -> str:
    """Where a process died that found `before` and left `after`; files called as `done` says are safe work."""
    begun = [path for path in after.keys() - before.keys() if path.match(_TEMPORARY)]
    if begun:
        outermost = min(begun, key=lambda path: len(path.parts))
        word = re.split(r"[-.]", outermost.name)[0]
        return f"in {_NAMES.get(word, word)}"
    if after == before:
        return "before it wrote"
    return "between files" if any(path.match(done) for path in after) else "before anything was done"
