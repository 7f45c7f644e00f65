"""One YAML file to one typed, frozen config, and back.

The type of a config is a frozen dataclass: its fields are plain types, other dataclasses (sections),
or `Choice` and tables marked with the registry that they pick from (`OneOf`, `TableOf`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from saelab.config.derive import Section, plain
from saelab.config.document import KeyPath, read_document, write_document
from saelab.config.sentences import in_words, issues_of
from saelab.errors import SaelabError
from saelab.files import sha256_json

T = TypeVar("T")


def load_config(root_type: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read a config file.

    Args:
        root_type: the frozen dataclass to fill.
        overrides: `section.key=value` texts that win over the file; a value is read as YAML.

    Raises:
        SaelabError: no such file, not YAML, or any number of bad keys, one `file:line: key: ...` each.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SaelabError(f"this file cannot be read: {error.strerror}", where=str(path)) from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SaelabError("not UTF-8 text", where=f"{path}:{line}", fix="save it as UTF-8") from error
    return parse_config(root_type, text, str(path), overrides)


def parse_config(root_type: type[T], text: str, name: str = "<text>", overrides: Sequence[str] = ()) -> T:
    """`load_config` for a text; errors call it `name`."""
    source = _Source.parse(text, name)
    for override in overrides:
        source.override(override)
    issues = dict(source.issues)
    try:
        config = Section(root_type).read(source.data)
        if not issues:
            return config
    except ValidationError as error:
        issues = issues_of(error) | issues
    raise source.error(issues)


def build_config(root_type: type[T], data: Mapping[str, Any], name: str) -> T:
    """A config from plain data, as `as_dict` gives it; errors call it `name`.

    Raises:
        SaelabError: any number of bad keys, one `name: key: ...` each.
    """
    try:
        return Section(root_type).read(dict(data))
    except ValidationError as error:
        raise _Source(name, dict(data), {}, {}).error(issues_of(error)) from None


def as_dict(config: Any) -> dict[str, Any]:
    """The config as JSON knows it, every default spelled out; a choice is `{kind: ..., **settings}`."""
    return plain(config)


def to_yaml(config: Any) -> str:
    """The text that `parse_config` reads back as an equal config."""
    return write_document(as_dict(config))


def config_sha256(config: Any) -> str:
    """The sha256 of the canonical JSON of `as_dict`: how the file was written plays no part."""
    return sha256_json(as_dict(config))


def json_schema(root_type: type) -> dict[str, Any]:
    """The JSON schema of `root_type`'s files, for editors; it imports every registered entry."""
    return Section(root_type).schema()


class _Place(NamedTuple):
    line: int
    where: str


@dataclass
class _Source:
    """What is to be read, and where each key of it was written: a line of the file, or an override."""

    name: str
    data: dict[str, Any]
    places: dict[KeyPath, _Place]
    issues: dict[KeyPath, str]

    @classmethod
    def parse(cls, text: str, name: str) -> _Source:
        document = read_document(text, name)
        if document.data is None:
            raise SaelabError("this file is empty", where=f"{name}:1")
        if not isinstance(document.data, dict):
            found = in_words(document.data)
            raise SaelabError(f"the top level must be `key: value` lines, found {found}", where=f"{name}:1")
        places = {path: _Place(line, f"{name}:{line}") for path, line in document.lines.items()}
        return cls(name, document.data, places, document.issues)

    def override(self, text: str) -> None:
        """Set one key, over whatever the file says there."""
        key, equals, value = text.partition("=")
        path = tuple(key.split("."))
        where = f"-o {text}"
        if not equals or not all(path):
            raise SaelabError("an override is written section.key=value", where=where)
        try:
            document = read_document(value, where)
        except SaelabError as error:
            raise SaelabError(error.message, where=where) from error
        section = self.data
        for depth, part in enumerate(path[:-1], start=1):
            if section.get(part) is None:
                section[part] = {}
                self.places[path[:depth]] = _Place(0, where)
            section = section[part]
            if not isinstance(section, dict):
                found = f"'{'.'.join(path[:depth])}' is {in_words(section)}, not a section"
                raise SaelabError(f"cannot be set: {found}", where=where)
        section[path[-1]] = document.data
        self.places = _outside(path, self.places) | {path: _Place(0, where)}
        issues = {(*path, *at): issue for at, issue in document.issues.items()}
        self.issues = _outside(path, self.issues) | issues

    def error(self, issues: dict[KeyPath, str]) -> SaelabError:
        """All issues, one line each, in the order of the file."""
        lines = []
        for path, issue in issues.items():
            starts = (path[:end] for end in range(len(path), 0, -1))
            place = next((self.places[at] for at in starts if at in self.places), _Place(0, self.name))
            lines.append((place.line, ": ".join(filter(None, [place.where, _dotted(path), issue]))))
        count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
        return SaelabError("\n".join([f"{count} in {self.name}", *(line for _, line in sorted(lines))]))


def _outside(path: KeyPath, found: dict[KeyPath, Any]) -> dict[KeyPath, Any]:
    return {at: value for at, value in found.items() if at[: len(path)] != path}


def _dotted(path: KeyPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
