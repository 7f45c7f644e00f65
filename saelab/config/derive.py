"""From dataclasses, registries and their annotations to strict pydantic models.

Every mapping of a config is read by a `_Reader`, from JSON: lists then fill tuples and integers fill
floats, while text fills no number. Defaults are laid under what was written before it is read, so that
a default is checked and completed like anything else. Models are built while a config is read: an entry
that was added to a registry at run time counts, and only the entries that a config names are imported.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import core_schema

from saelab.config.sentences import in_words, own_check, refusal, unknown, worded
from saelab.errors import SaelabError

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())
_NULL = {"type": "null"}


class Entries(Protocol):
    """A registry: names, and the callable or dataclass behind each."""

    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, name: str, /) -> Callable[..., Any]: ...


@dataclass(frozen=True)
class Choice:
    """One entry of a registry and all its settings, defaults filled in."""

    kind: str
    settings: dict[str, Any]


class _Reader:
    """An annotation that tells pydantic how to make a value, and how JSON schema describes it."""

    def read(self, value: Any) -> Any:
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        schema = core_schema.no_info_plain_validator_function(self.read)
        return core_schema.nullable_schema(schema) if NoneType in get_args(source) else schema

    def __get_pydantic_json_schema__(self, core: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        schema = self.schema()
        return {"anyOf": [schema, _NULL]} if core["type"] == "nullable" else schema


class Section(_Reader):
    """A mapping with fixed keys: a dataclass's fields, or a callable's parameters.

    Args:
        target: what is called with the settings.
        hidden: parameters that are no settings.
    """

    def __init__(self, target: Callable[..., Any], hidden: Iterable[str] = ()):
        everything = list(_settings(target))
        settings = [setting for setting in everything if setting.name not in hidden]
        self.target = target
        self.defaults = {name: plain(default) for name, _, default in settings if default is not ...}
        self.tables = {name for name, note, _ in settings if _is_table(note)}
        definitions = {
            name: (_with_readers(note), Field(default=self.defaults.get(name, ...))) for name, note, _ in settings
        }
        self.model = _model(_name(target), definitions, _first_line(target))
        self.checks_itself = is_dataclass(target) and len(settings) == len(everything)

    def read(self, value: Any) -> Any:
        return self.target(**self.fill(value))

    def fill(self, value: Any) -> dict[str, Any]:
        """All settings, checked, defaults filled in."""
        if isinstance(value, dict):
            given = {key: item for key, item in value.items() if item is not None or key not in self.tables}
            value = self.defaults | given
        settings = _read(self.model, value, self.model.model_fields)
        if self.checks_itself:
            with own_check():
                self.target(**settings)
        return settings

    def schema(self) -> dict[str, Any]:
        return self.model.model_json_schema()


class _Entry(Section):
    """The settings of a table's entry, which stay a mapping."""

    def read(self, value: Any) -> dict[str, Any]:
        return self.fill({} if value is None else value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [super().schema(), _NULL]}


@dataclass(frozen=True, eq=False)
class OneOf(_Reader):
    """Marks a `Choice`: a mapping whose key `kind` names an entry, beside that entry's settings.

    Args:
        registry: the entries; a setting is a parameter of the entry's callable.
        hidden: parameters that are no settings, since the program fills them in.
        check: looks at the whole choice; may raise `SettingError`.
    """

    registry: Entries
    hidden: tuple[str, ...] = ("d_model",)
    check: Callable[[Choice], object] | None = None

    def read(self, value: Any) -> Choice:
        if not isinstance(value, dict):
            raise refusal({(): f"expected a section with the key 'kind', found {in_words(value)}"})
        if "kind" not in value:
            raise refusal({("kind",): "missing, required"})
        settings = dict(value)
        kind = settings.pop("kind")
        if kind not in list(self.registry):
            raise refusal({("kind",): unknown(f"'{kind}'", str(kind), self.registry)})
        choice = Choice(kind, Section(self.registry[kind], self.hidden).fill(settings))
        with own_check():
            if self.check:
                self.check(choice)
        return choice

    def schema(self) -> dict[str, Any]:
        members = []
        for kind in self.registry:
            member = Section(self.registry[kind], self.hidden).schema()
            member["properties"] = {"kind": {"const": kind}, **member["properties"]}
            member["required"] = ["kind", *member.get("required", ())]
            members.append(member)
        return {"oneOf": members, "discriminator": {"propertyName": "kind"}}


@dataclass(frozen=True, eq=False)
class TableOf(_Reader):
    """Marks a `dict[str, dict[str, Any]]`: names of entries, each with that entry's settings or null.

    Null in place of the whole table stands for the field's default.
    """

    registry: Entries
    hidden: tuple[str, ...] = ()

    def read(self, value: Any) -> dict[str, dict[str, Any]]:
        known = list(self.registry)
        named = [name for name in value if name in known] if isinstance(value, dict) else []
        return _read(self._model(named), value, known)

    def schema(self) -> dict[str, Any]:
        schema = self._model(self.registry).model_json_schema()
        return {"anyOf": [{key: schema[key] for key in schema if key != "required"}, _NULL]}

    def _model(self, names: Iterable[str]) -> type[BaseModel]:
        entries = {name: _Entry(self.registry[name], self.hidden) for name in names}
        return _model("Table", {name: (Annotated[Any, entry], ...) for name, entry in entries.items()})


def plain(value: Any) -> Any:
    """A setting as JSON knows it: sections and choices as mappings, tuples as lists, paths as text."""
    if isinstance(value, Choice):
        return {"kind": value.kind, **plain(value.settings)}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


class _Setting(NamedTuple):
    name: str
    note: Any
    default: Any


def _settings(target: Callable[..., Any]) -> Iterator[_Setting]:
    """Each thing that `target` is called with: its annotation, its default or `...`."""
    if is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
        for field in fields(target):
            default = ... if field.default_factory is MISSING else field.default_factory()
            default = default if field.default is MISSING else field.default
            if field.init:
                yield _Setting(field.name, hints[field.name], default)
        return
    for parameter in inspect.signature(target, eval_str=True).parameters.values():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            default = ... if parameter.default is parameter.empty else parameter.default
            yield _Setting(parameter.name, parameter.annotation, default)


def _with_readers(note: Any) -> Any:
    """An annotation with readers in place of dataclasses, and descriptions in place of bare texts."""
    if isinstance(note, type) and is_dataclass(note):
        return Annotated[Any, Section(note)]
    origin, args = get_origin(note), get_args(note)
    if origin is Annotated:
        extras = [Field(description=extra) if isinstance(extra, str) else extra for extra in args[1:]]
        marked = any(isinstance(extra, _Reader) for extra in extras)
        return Annotated[args[0] if marked else _with_readers(args[0]), *extras]
    if origin is None or origin is Literal or not args:
        return note
    if len(args) == 2 and args[1] is NoneType and is_dataclass(args[0]) and isinstance(args[0], type):
        return Annotated[Any | None, Section(args[0])]
    args = tuple(_with_readers(arg) for arg in args)
    return Union[args] if origin is UnionType else origin[args]  # noqa: UP007


def _is_table(note: Any) -> bool:
    return any(isinstance(extra, TableOf) for extra in getattr(note, "__metadata__", ()))


def _name(target: Callable[..., Any]) -> str:
    return getattr(target, "__name__", "settings")


def _first_line(target: Callable[..., Any]) -> str:
    """What a docstring says first; a dataclass without one has its signature there."""
    line = (inspect.getdoc(target) or "").partition("\n")[0]
    return "" if line.startswith(f"{_name(target)}(") else line


def _model(name: str, definitions: dict[str, Any], description: str = "") -> type[BaseModel]:
    for key, (note, _) in definitions.items():
        if note is inspect.Parameter.empty:
            raise SaelabError(f"parameter '{key}' needs a type annotation", where=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a setting may well be called `copy` or `json`
        return create_model(name, __config__=_STRICT, __doc__=description, **definitions)


def _read(model: type[BaseModel], value: Any, known: Iterable[str]) -> dict[str, Any]:
    try:
        return dict(model.model_validate_json(json.dumps(value)))
    except ValidationError as error:
        raise worded(error, value, known) from None
