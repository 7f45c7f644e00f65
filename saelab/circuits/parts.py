"""Parts of long work, kept in a file as they are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from saelab import __version__
from saelab.files import read_json, sha256_json, write_json
from saelab.lm.model import LanguageModel

SCHEMA = 1


class Parts:
    """Parts of experiments on one model, in one file."""

    def __init__(self, path: Path, lm: LanguageModel):
        self._path = path
        head = {"schema": SCHEMA, "saelab": __version__, "model": lm.identity}
        old = read_json(path) if path.exists() else {}
        same = isinstance(old, dict) and all(old.get(key) == value for key, value in head.items())
        self._document: dict[str, Any] = {**head, "parts": old["parts"] if same else {}}

    def part(self, name: str, settings: Any, make: Callable[[], Any]) -> Any:
        """What `make` made of these settings: now, or before an interruption."""
        key = f"{name} {sha256_json(settings)[:16]}"
        parts = self._document["parts"]
        if key not in parts:
            parts[key] = make()
            write_json(self._path, self._document)
        return parts[key]
