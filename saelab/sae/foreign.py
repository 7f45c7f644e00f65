"""SAEs in other tools' formats: a lazy registry of who reads what, and where a source lies on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saelab.errors import SaelabError
from saelab.registry import Registry

if TYPE_CHECKING:
    from saelab.sae.model import SAE


@dataclass(frozen=True)
class Format:
    """How another tool keeps its SAEs.

    Attributes:
        title: the tool, or the release, by its own name.
        files: what makes a directory (or a file) one of these, in words.
        recognises: whether it is one, from the names of its files alone.
        read: the SAE there, in inference form.
        write: writes the inference form into a new directory; None where saelab only reads the format.
    """

    title: str
    files: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], SAE]
    write: Callable[[SAE, Path], None] | None = None


FORMATS: Registry[Format] = Registry("SAE format")
"""By name; an entry is imported when a source is not saelab's own, or when something is written."""
for _name in ("saelens", "sparsify", "dictionary_learning", "gemma_scope", "openai"):
    FORMATS.add(_name, f"saelab.interop.{_name}:FORMAT")


PLACES: Registry[Callable[[str], Path]] = Registry("place to load SAEs from")
"""By the scheme in front of `://`; an entry brings what a source names to this machine."""
PLACES.add("hf", "saelab.interop.hub:fetched")
_ELSEWHERE = re.compile(r"([a-z][a-z0-9+.-]+)://")


def located(source: Path | str) -> Path:
    """The directory or file on this machine that a source names, fetched where it is elsewhere.

    Raises:
        SaelabError: there is nothing of that name, or it cannot be fetched.
    """
    if isinstance(source, str) and (elsewhere := _ELSEWHERE.match(source)):
        return PLACES[elsewhere[1]](source)
    path = Path(source)
    if not path.exists():
        raise SaelabError("there is no SAE here: this directory does not exist", where=str(source))
    return path


def recognised(path: Path) -> str | None:
    """The name of the format that the SAE at `path` has; None where it has none of them.

    Raises:
        SaelabError: it looks like several.
    """
    found = [name for name in FORMATS if FORMATS[name].recognises(path)]
    if len(found) > 1:
        titles = " and of ".join(FORMATS[name].title for name in found)
        raise SaelabError(
            f"this holds files of {titles}, and it is not clear which are meant",
            where=str(path),
            fix="keep each SAE in a directory of its own",
        )
    return found[0] if found else None
