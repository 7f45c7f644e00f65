"""One YAML document: plain data, and the line on which each of its keys stands.

YAML 1.2's core schema, made strict: `1e-3` is a number, `on` and `2024-01-01` are text, a key given
twice is an issue. Tags and merge keys are refused; anchors and aliases work within a bound.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from saelab.errors import SaelabError

KeyPath = tuple[str | int, ...]

# What unquoted text may stand for. More than 100 digits make a float: Python prints no integer of thousands.
_PLAIN = {
    "null": re.compile(r"(null|Null|NULL|~|)\Z"),
    "bool": re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"([-+]?[0-9]{1,100}|0o[0-7]{1,100}|0x[0-9a-fA-F]{1,80})\Z"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z"),
    "not finite": re.compile(r"([-+]?\.(inf|Inf|INF)|\.nan|\.NaN|\.NAN)\Z"),
    "merge": re.compile(r"<<\Z"),
}
_MAX_SIZE, _MAX_DEPTH = 1_000_000, 50


def read_plain(text: str) -> Any:
    """The value that unquoted text stands for."""
    kind = next((kind for kind, pattern in _PLAIN.items() if pattern.match(text)), "text")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind == "float":
        return float(text)
    return math.nan if kind == "not finite" else text


@dataclass(frozen=True)
class Document:
    """What was read: `lines` counts from 1, `issues` says what is wrong at a key."""

    data: Any
    lines: dict[KeyPath, int]
    issues: dict[KeyPath, str]


def read_document(text: str, name: str) -> Document:
    """Read one YAML document; the data of an empty one is None.

    Raises:
        SaelabError: not YAML, or too much of it, with `name` and the line.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
        walk = _Walk()
        return Document(root and walk.value(root, ()), walk.lines, walk.issues)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = ", ".join(filter(None, [error.context, error.problem]))
        fix = "indent with spaces, not tabs" if "\\t" in problem else None
        raise SaelabError(f"not valid YAML: {problem}", where=f"{name}:{line}", fix=fix) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise SaelabError(f"not valid YAML: {problem}", where=f"{name}:{line}") from error
    except (RecursionError, _TooMuchError) as error:
        bound = f"over {_MAX_DEPTH} levels or {_MAX_SIZE} characters once its aliases are replaced"
        raise SaelabError(f"too much YAML: {bound}", where=name) from error


def write_document(data: Any) -> str:
    """YAML that `read_document` reads back as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _TooMuchError(Exception):
    """A file of absurd size, or a bomb or a cycle of aliases."""


class _Loader(yaml.BaseLoader):
    """Composes nodes that carry a tag only where the author wrote one."""

    DEFAULT_SCALAR_TAG = DEFAULT_SEQUENCE_TAG = DEFAULT_MAPPING_TAG = ""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `read_plain` would take for something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML declares it so)
        None: [(f"tag:yaml.org,2002:{kind}", pattern) for kind, pattern in _PLAIN.items()]
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def choose_scalar_style(self) -> str:
        """Escape the line breaks that PyYAML loses outside double quotes."""
        event: Any = self.event
        return '"' if re.search("[\x85\u2028\u2029]", event.value) else super().choose_scalar_style()


@dataclass
class _Walk:
    """Turns nodes into data, noting lines and issues on the way."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    issues: dict[KeyPath, str] = field(default_factory=dict)
    size: int = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.size += 1 + len(node.value)
        if self.size > _MAX_SIZE or len(path) > _MAX_DEPTH:
            raise _TooMuchError
        if node.tag:
            self.issues[path] = f"tags are not supported, found {node.tag.replace('tag:yaml.org,2002:', '!!')}"
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.item(item, (*path, index)) for index, item in enumerate(node.value)]
        value = node.value if isinstance(node, yaml.ScalarNode) and node.style else read_plain(node.value)
        if isinstance(value, float) and not math.isfinite(value):
            self.issues[path] = f"a number must be finite, found {node.value}"
        return value

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, item in node.value:
            is_text = isinstance(key, yaml.ScalarNode) and not key.tag
            name = key.value if is_text else "?"
            at = (*path, name)
            if not is_text:
                self.issues[at] = "a key must be plain text"
            elif name == "<<" and not key.style:
                self.issues[at] = "merge keys are not supported; write the keys out"
            elif name in data:
                self.issues[at] = f"given twice, first on line {self.lines[at]}"
            self.lines[at] = key.start_mark.line + 1
            data[name] = self.value(item, at)
        return data
