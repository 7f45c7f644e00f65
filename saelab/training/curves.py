"""`metrics.jsonl` as curves, read on as it grows and never held whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_POINTS = 1000
"""Per curve: more than a screen has room for."""
_TAIL = 64
"""Bytes by which a file that was replaced is told from one that grew."""


@dataclass
class Curve:
    """One metric over steps: every `stride`-th of its values, and the newest one."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    newest: tuple[int, float] | None = None
    stride: int = 1
    seen: int = 0

    def add(self, step: int, value: float) -> None:
        if self.seen % self.stride == 0:
            self.steps.append(step)
            self.values.append(value)
        if len(self.steps) > _POINTS:
            del self.steps[1::2], self.values[1::2]
            self.stride *= 2
        self.seen += 1
        self.newest = (step, value)

    def points(self) -> list[tuple[int, float]]:
        """In order, the newest value among them."""
        kept = list(zip(self.steps, self.values, strict=True))
        return kept if self.newest is None or kept[-1:] == [self.newest] else [*kept, self.newest]


class Curves:
    """All metrics of one run. Call `read_on` for what was written since; a file that shrank or was replaced (a
    resumed run cuts it back to its checkpoint) is read anew.

    Attributes:
        by_name: a curve for each metric that had a finite number.
    """

    def __init__(self, path: Path):
        self.path = path
        self.by_name: dict[str, Curve] = {}
        self._offset, self._tail = 0, b""

    def read_on(self) -> None:
        """Read whole new lines; what is not one (a line being written, or cut short by a kill) is passed over.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if not self.path.exists():
            self._restart()
            return
        with self.path.open("rb") as file:
            file.seek(self._offset - len(self._tail))
            if file.read(len(self._tail)) != self._tail:
                self._restart()
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._tail = line[-_TAIL:]
                self._add(line)

    def _restart(self) -> None:
        self.by_name, self._offset, self._tail = {}, 0, b""

    def _add(self, line: bytes) -> None:
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(document, dict) or not _is_number(document.get("step")):
            return
        for name, value in _numbers(document):
            self.by_name.setdefault(name, Curve()).add(int(document["step"]), value)


def _numbers(document: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in document.items():
        if name != "step" and _is_number(value):
            yield name, float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
