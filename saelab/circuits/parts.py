"""Parts of long work, kept in a file as they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from saelab import __version__
from saelab.errors import SaelabError
from saelab.files import read_json, sha256_json, write_json
from saelab.lm.model import LanguageModel

SCHEMA = 1


class Parts:
    """Parts of experiments on one model, in one file; tensors beside it.

    Args:
        stamp: JSON-able; what makes parts now (versions, the machine). It is kept with each.
    """

    def __init__(self, path: Path, lm: LanguageModel, stamp: Mapping[str, Any] | None = None):
        self._path, self._stamp, self._asked = path, dict(stamp or {}), list[str]()
        head = {"schema": SCHEMA, "saelab": __version__, "model": lm.identity}
        old = read_json(path) if path.exists() else {}
        same = isinstance(old, dict) and all(old.get(key) == value for key, value in head.items())
        known = {key: old.get(key, {}) if same else {} for key in ("parts", "stamps", "stamped")}
        self._document: dict[str, Any] = {**head, **known}

    def tensors(self, name: str, settings: Any) -> Path:
        """The file for what a part has that is too large for the one of all."""
        return self._path.with_suffix("") / f"{quote(_key(name, settings), safe='')}.safetensors"

    def part(
        self, name: str, settings: Any, make: Callable[[], Any], whole: Callable[[Any], bool] = lambda made: True
    ) -> Any:
        """What `make` made of these settings: now, or before an interruption and still `whole`."""
        key = _key(name, settings)
        parts = self._document["parts"]
        self._asked.append(key)
        if key not in parts or not whole(parts[key]):
            parts[key] = make()
            name = sha256_json(self._stamp)[:16]
            self._document["stamps"][name] = self._stamp
            self._document["stamped"][key] = name
            write_json(self._path, self._document)
        return parts[key]

    def stamps(self) -> list[dict[str, Any]]:
        """Each stamp of the parts asked for so far, with their names; parts of older files have none."""
        found: dict[str, list[str]] = {}
        for key in dict.fromkeys(self._asked):
            found.setdefault(self._document["stamped"].get(key, ""), []).append(key)
        return [{**self._document["stamps"].get(name, {}), "parts": keys} for name, keys in found.items()]

    def expect(self, task: str, methods: Mapping[str, Sequence[tuple[str, Any]]]) -> None:
        """Say, for `standing`, which parts (names and settings) each method will have."""
        expected = {label: [_key(*part) for part in parts] for label, parts in methods.items()}
        self._document["expected"] = {"task": task, "methods": expected}


@dataclass(frozen=True)
class Standing:
    """How far an experiment is.

    Attributes:
        done: of its methods, those with all their seeds.
    """

    task: str
    model: str
    done: int
    methods: int


def standing(path: Path) -> Standing:
    """Of the experiment whose parts are kept in a file.

    Raises:
        SaelabError: there is none, or it does not say.
    """
    document = read_json(path)
    try:
        made, expected = set(document["parts"]), document["expected"]
        done = sum(made.issuperset(parts) for parts in expected["methods"].values())
        return Standing(str(expected["task"]), str(document["model"]["name"]), done, len(expected["methods"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise SaelabError("this file does not say how far the experiment is", where=str(path)) from error


def _key(name: str, settings: Any) -> str:
    return f"{name} {sha256_json(settings)[:16]}"
