"""One small lazy registry for everything a third party can add: variants, loss terms, evaluators.

An entry is an object, or the text `"package.module:name"` that is imported when it is first asked
for, so that listing what exists costs no import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar

from saelab.errors import SaelabError, did_you_mean

T = TypeVar("T")


def named(reference: str) -> Any:
    """The object that the text `"package.module:name"` stands for, imported now."""
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


class Registry(Generic[T]):
    """Names to objects, in the order in which they were added.

    Raises:
        SaelabError: a name that is unknown (with the close ones), or added twice.
    """

    def __init__(self, what: str):
        self.what = what
        self._entries: dict[str, T | str] = {}

    def add(self, name: str, entry: T | str) -> None:
        if name in self._entries:
            raise SaelabError(f"there is already a {self.what} called '{name}'")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add`."""

        def add(entry: T) -> T:
            self.add(name, entry)
            return entry

        return add

    def remove(self, name: str) -> None:
        """Take an entry out again (tests and notebooks that define one twice)."""
        self[name]
        del self._entries[name]

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise SaelabError(f"unknown {self.what} '{name}'", fix=did_you_mean(name, self._entries) or None)
        entry = self._entries[name]
        if isinstance(entry, str):
            loaded: T = named(entry)
            self._entries[name] = loaded
            return loaded
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
