"""`metrics.jsonl`: a run's own record of its metrics."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

from saelab.files import write_text, writing


class JsonLines:
    """One JSON object a line, `step` first; a value that is not finite is null."""

    def __init__(self, path: Path):
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        clean = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with writing(self.path):
            self._file.write(json.dumps({"step": step, **clean}) + "\n")
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported when the line was written
            self._file.close()

    @staticmethod
    def cut_back(path: Path, step: int) -> None:
        """Drop lines after `step`, and a last line that was being written when the process died."""
        if path.exists():
            write_text(path, "".join(line + "\n" for number, line in _lines(path) if number <= step))

    @staticmethod
    def last_step(path: Path) -> int:
        """The last step with a line; 0 where there is none."""
        return max((number for number, _ in _lines(path)), default=0) if path.exists() else 0


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each whole line and its step."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict) and isinstance(document.get("step"), int):
            yield document["step"], line
