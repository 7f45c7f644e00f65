"""Annotations as CSV or JSONL, by the file's ending: what is written is read back the same, to the character.

A spreadsheet takes a CSV cell that begins with `=`, `+`, `-`, `@`, a tab or a line end for a formula. Such a cell is
written with an apostrophe in front, as is one that begins with an apostrophe, and reading takes it away again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from saelab.errors import SaelabError, did_you_mean
from saelab.features.annotations import FIELDS, Annotation, check, now, utc
from saelab.files import atomic_file

_RISKY = tuple("=+-@\t\r\n'")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def save(annotations: Sequence[Annotation], path: Path) -> None:
    """Write a file, complete or not at all.

    Raises:
        SaelabError: no such format, or it cannot be written.
    """
    write, _ = _format(path)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write(file, annotations)


def load(path: Path) -> list[Annotation]:
    """Read a file; `sae` and `latent` have to be there, the rest may be left out.

    Raises:
        SaelabError: at the first line that is wrong.
    """
    _, rows = _format(path)
    found: dict[tuple[str, int], int] = {}
    annotations: list[Annotation] = []
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, row in rows(file):
                annotation = _parsed(row)
                first = found.setdefault((annotation.sae, annotation.latent), line)
                if first != line:
                    raise SaelabError(f"line {first} says something of latent {annotation.latent} already")
                annotations.append(annotation)
    except FileNotFoundError as error:
        raise SaelabError("this file does not exist", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SaelabError(f"not a readable UTF-8 file: {error}", where=str(path)) from error
    except _LineError as error:
        raise SaelabError(str(error), where=f"{path}:{error.line}") from error
    except SaelabError as error:
        raise SaelabError(error.message, where=f"{path}:{line}", fix=error.fix) from error
    return annotations


class _LineError(Exception):
    """A line that is no row at all."""

    def __init__(self, line: int, message: str):
        super().__init__(message)
        self.line = line


def _parsed(row: Mapping[str, Any]) -> Annotation:
    """Strict: every value of the kind it has in `Annotation`."""
    for key in row:
        if key not in FIELDS:
            raise SaelabError(f"there is no field {key!r}", fix=did_you_mean(str(key), FIELDS) or None)
    for key in ("sae", "latent"):
        if key not in row:
            raise SaelabError(f"the field {key!r} is missing")
    kinds = {"latent": int, "bookmarked": bool, "lists": list}
    for key, value in row.items():
        kind = kinds.get(key, str)
        if type(value) is not kind:
            raise SaelabError(f"{key} has to be {_KINDS[kind]}, found {str(value)[:80]!r}")
    lists = row.get("lists", [])
    if not all(isinstance(name, str) for name in lists):
        raise SaelabError(f"lists has to be names, found {str(lists)[:80]!r}")
    annotation = Annotation(**{**row, "lists": tuple(sorted(set(lists)))})
    annotation = replace(annotation, updated=_time(annotation.updated))
    check(annotation)
    return annotation


_KINDS: dict[type, str] = {int: "a number", bool: "true or false", list: "a list of names", str: "text"}


def _time(text: str) -> str:
    if not text:
        return now()
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise SaelabError(f"updated has to be a time such as 2026-01-31T12:00:00Z, found {text[:80]!r}") from error
    if time.tzinfo is None:
        raise SaelabError(f"updated needs a time zone, such as 2026-01-31T12:00:00Z, found {text[:80]!r}")
    return utc(time)


# -- formats ------------------------------------------------------------------------------------------


def _write_jsonl(file: IO[str], annotations: Sequence[Annotation]) -> None:
    for annotation in annotations:
        file.write(json.dumps(asdict(annotation), ensure_ascii=False) + "\n")


def _jsonl_rows(file: IO[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file.read().split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _LineError(number, f"not JSON: {error}") from error
        if not isinstance(row, dict):
            raise _LineError(number, f"expected an object, found {line[:80]!r}")
        yield number, row


def _write_csv(file: IO[str], annotations: Sequence[Annotation]) -> None:
    writer = csv.DictWriter(file, FIELDS)
    writer.writeheader()
    for annotation in annotations:
        row = {**asdict(annotation), "bookmarked": str(annotation.bookmarked).lower()}
        row["lists"] = json.dumps(annotation.lists, ensure_ascii=False)
        writer.writerow({key: _guarded(str(value)) for key, value in row.items()})


def _csv_rows(file: IO[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(file, strict=True)
    try:
        header = next(reader, [])
        number = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    raise _LineError(number, f"expected {len(header)} cells, found {len(cells)}")
                yield number, {key: _cell(key, _unguarded(cell)) for key, cell in zip(header, cells, strict=True)}
            number = reader.line_num + 1
    except csv.Error as error:
        raise _LineError(reader.line_num, f"not CSV: {error}") from error


def _cell(key: str, cell: str) -> Any:
    """A cell as JSON would have it; what cannot be read stays text, for `_parsed` to refuse."""
    if key == "latent" and cell.isascii() and cell.isdigit():
        return int(cell[:20])
    if key == "bookmarked":
        return _TRUTH.get(cell.lower(), cell)
    if key == "lists":
        try:
            return json.loads(cell or "[]")
        except (ValueError, RecursionError):
            return cell
    return cell


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_RISKY) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_RISKY) else cell


_Write = Callable[[IO[str], Sequence[Annotation]], None]
_Rows = Callable[[IO[str]], Iterator[tuple[int, Mapping[str, Any]]]]
_FORMATS: dict[str, tuple[_Write, _Rows]] = {".csv": (_write_csv, _csv_rows), ".jsonl": (_write_jsonl, _jsonl_rows)}


def _format(path: Path) -> tuple[_Write, _Rows]:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        fix = "name it .csv or .jsonl"
        raise SaelabError(f"no format has the ending {path.suffix!r}", where=str(path), fix=fix) from None
