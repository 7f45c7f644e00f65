"""What is wrong at each key of a config, as one sentence, carried by pydantic's own error.

A `ValidationError` raised inside a validator is placed by pydantic at the right key, so each mapping
words its errors while it still knows its keys, and those around it pass them on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from saelab.config.document import KeyPath, read_plain
from saelab.errors import SaelabError, SettingError, did_you_mean

_WORDED = "worded"
_EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section",
    "model_type": "a section",
    "none_required": "null",
}
_KINDS = {bool: "boolean", int: "integer", float: "decimal number", str: "text"}


def refusal(issues: dict[KeyPath, str]) -> ValidationError:
    """The error that says these sentences, each at its place relative to the value being read."""
    return ValidationError.from_exception_data(
        "config",
        [
            InitErrorDetails(type=PydanticCustomError(_WORDED, "{text}", {"text": text}), loc=path, input=None)
            for path, text in issues.items()
        ],
    )


def issues_of(error: ValidationError) -> dict[KeyPath, str]:
    """The sentences of a refusal."""
    return {line["loc"]: line["msg"] for line in error.errors()}


def worded(error: ValidationError, data: Any, known: Iterable[str]) -> ValidationError:
    """The refusal for what pydantic found wrong with `data`, a mapping whose keys are `known`."""
    issues: dict[KeyPath, str] = {}
    expected: dict[KeyPath, list[str]] = {}
    for line in error.errors():
        kind, path, found = line["type"], line["loc"], line["input"]
        if kind == _WORDED:
            issues[path] = line["msg"]
        elif kind == "missing":
            issues[path] = "missing, required"
        elif kind == "extra_forbidden":
            issues[path] = unknown("key", str(path[-1]), known)
        elif kind in _EXPECTED or kind == "literal_error":
            path = _in_data(path, data)
            expected.setdefault(path, []).append(_EXPECTED.get(kind) or line.get("ctx", {})["expected"])
            issues[path] = _mismatch(" or ".join(expected[path]), found)
        else:
            text = line["msg"].replace("Input should be", "must be").replace(" after validation", "")
            found = "" if isinstance(found, list | dict) else f", found {in_words(found)}"
            issues[_in_data(path, data)] = text + found
    return refusal(issues)


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """`unknown key; did you mean 'k'?`"""
    return "; ".join(filter(None, [f"unknown {what}", did_you_mean(word, known)]))


def in_words(value: Any) -> str:
    """A value and its kind: `"32" (text)`."""
    if value is None or isinstance(value, list | dict):
        return "null" if value is None else "a list" if isinstance(value, list) else "a section"
    text = json.dumps(value, ensure_ascii=False)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({_KINDS[type(value)]})"


@contextmanager
def own_check() -> Iterator[None]:
    """Turn what a room's own check raises into a refusal at the key that it names."""
    try:
        yield
    except (SaelabError, ValueError) as error:
        key = error.key if isinstance(error, SettingError) else ""
        path = tuple(int(part) if part.isdigit() else part for part in key.split(".") if part)
        text = str(error).removeprefix(f"{key}: ").replace("\n  fix: ", "; ")
        raise refusal({path: " ".join(text.split())}) from error


def _mismatch(expected: str, found: Any) -> str:
    hint = ""
    if isinstance(found, float) and abs(found) < 1e15 and found.is_integer() and "an integer" in expected:
        hint = f"write {int(found)}"
    elif isinstance(found, str):
        digits = found.replace("_", "")
        is_number = digits != found and type(read_plain(digits)) in (int, float)
        hint = f"write {digits}" if is_number else did_you_mean(found, re.findall(r"'([^']*)'", expected))
    hint = "" if hint.startswith("known") else hint  # they are what was expected
    return "; ".join(filter(None, [f"expected {expected}, found {in_words(found)}", hint]))


def _in_data(path: KeyPath, data: Any) -> KeyPath:
    """`path` without the names of union arms, which pydantic puts between the keys."""
    kept: list[str | int] = []
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            continue
        kept.append(part)
    return tuple(kept)
