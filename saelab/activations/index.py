"""`shards.jsonl`: what of a store is in place, while it is being written.

The first line says what the store is made of, every further one is a shard. A shuffle window counts once its last
shard is in place; what a killed process left of an unfinished one is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saelab import files
from saelab.activations.store import INDEX, Shard


@dataclass(frozen=True)
class Index:
    """What an index says: what determines the store (`content`), and the shards written so far."""

    content_sha256: str
    content: dict[str, Any]
    shards: list[Shard]

    def finished(self, whole: Callable[[str, int, str], bool]) -> list[Shard]:
        """The shards of windows that are finished and all of whose files are `whole(file, bytes, sha256)`."""
        windows: dict[tuple[str, int], bool] = {}
        for shard in self.shards:
            rows = whole(shard.file, shard.bytes, shard.sha256)
            contexts = whole(shard.contexts, shard.contexts_bytes, shard.contexts_sha256)
            key = shard.split, shard.window
            windows[key] = windows.get(key, True) and rows and contexts
        last = {(shard.split, shard.window) for shard in self.shards if shard.last}
        return [s for s in self.shards if (s.split, s.window) in last and windows[s.split, s.window]]


def read(directory: Path) -> Index | None:
    """The index in a directory, or None where there is none that can be read."""
    lines = _json_lines(directory / INDEX)
    if not lines or not lines[0].keys() >= {"content_sha256", "content"}:
        return None
    shards = [Shard(**line) for line in lines[1:] if line.keys() == Shard.__dataclass_fields__.keys()]
    return Index(str(lines[0]["content_sha256"]), lines[0]["content"], shards)


def in_place(directory: Path) -> list[Shard]:
    """The shards of finished windows in a directory, as far as their files' sizes tell."""
    found = read(directory)

    def right_size(file: str, size: int, _: str) -> bool:
        path = directory / file
        return path.exists() and path.stat().st_size == size

    return found.finished(right_size) if found else []


def write(directory: Path, content: dict[str, Any], shards: Iterable[Shard]) -> None:
    """Write an index anew."""
    header = {"content_sha256": files.sha256_json(content), "content": content}
    lines = [header, *(asdict(shard) for shard in shards)]
    files.write_text(directory / INDEX, "".join(json.dumps(line) + "\n" for line in lines))


def append(directory: Path, shard: Shard) -> None:
    """Add a shard that is in place."""
    path = directory / INDEX
    with files.writing(path), path.open("a") as index:
        index.write(json.dumps(asdict(shard)) + "\n")
        index.flush()
        os.fsync(index.fileno())


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, up to the first that is not one: there its writer died."""
    found: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            document = json.loads(line)
        except ValueError:
            break
        if not isinstance(document, dict):
            break
        found.append(document)
    return found
