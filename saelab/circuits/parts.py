"""Parts of long work, kept in a file as they are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from saelab import __version__
from saelab.files import read_json, sha256_json, write_json
from saelab.lm.model import LanguageModel

SCHEMA = 1


class Parts:
    """Parts of experiments on one model, in one file; tensors beside it."""

    def __init__(self, path: Path, lm: LanguageModel):
        self._path = path
        head = {"schema": SCHEMA, "saelab": __version__, "model": lm.identity}
        old = read_json(path) if path.exists() else {}
        same = isinstance(old, dict) and all(old.get(key) == value for key, value in head.items())
        self._document: dict[str, Any] = {**head, "parts": old["parts"] if same else {}}

    def tensors(self, name: str, settings: Any) -> Path:
        """The file for what a part has that is too large for the one of all."""
        return self._path.with_suffix("") / f"{quote(_key(name, settings), safe='')}.safetensors"

    def part(
        self, name: str, settings: Any, make: Callable[[], Any], whole: Callable[[Any], bool] = lambda made: True
    ) -> Any:
        """What `make` made of these settings: now, or before an interruption and still `whole`."""
        key = _key(name, settings)
        parts = self._document["parts"]
        if key not in parts or not whole(parts[key]):
            parts[key] = make()
            write_json(self._path, self._document)
        return parts[key]


def _key(name: str, settings: Any) -> str:
    return f"{name} {sha256_json(settings)[:16]}"
