"""Documents, one after another, from wherever a config says they are.

An asset, a local file, a directory of files, a directory saved by `datasets`, a dataset repository
(local or on the Hugging Face hub): all become the same stream, and each can say what it is made of
(`identity`), so that what was computed from it can be named by its content.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from saelab import files
from saelab.errors import SaelabError, did_you_mean
from saelab.lm import assets

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_PART_CHARACTERS = 4000
"""A .txt file is cut into documents of at least this many characters."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SPLIT_IN_NAME = re.compile(
    r"(?:^|[-._ 0-9/])(train(ing)?|test(ing)?|valid(ation)?|val|dev|eval(uation)?)(?:[-._ 0-9/]|$)"
)
_ROWS_PER_BATCH = 256

_HUB_FIX = (
    "check the name, `subset`, `split` and `revision`, and the connection to the hub (HF_HUB_OFFLINE=1 forbids "
    "one). If a local path was meant: there is none of that name. Without the hub, use a .txt, .jsonl or "
    f".parquet file, a directory of them, or {assets.PREFIX}wikipedia-sample"
)
_SCRIPT_FIX = "set `revision: refs/convert/parquet`, where the hub keeps a copy of most datasets that needs no script"

Row = tuple[str, object, object]  # where it was found, its title, its text: not checked yet


@dataclass(frozen=True)
class DataSpec:
    """Which text to read."""

    dataset: Annotated[str, "'asset:NAME', a local file or directory, or a dataset id on the hub"]
    subset: Annotated[str | None, "which configuration of a dataset repository"] = None
    split: Annotated[str, "which split of a dataset repository"] = "train"
    revision: Annotated[str | None, "which commit, branch or tag of a dataset on the hub"] = None
    text_column: Annotated[str, "the column (of JSON lines: the key) that holds the text"] = "text"
    streaming: Annotated[bool, "read a dataset repository as it comes, without a local copy first"] = False


@dataclass(frozen=True)
class Document:
    """One text; `index` counts the documents that are not empty, `row` all of them, from 0."""

    index: int
    title: str | None
    text: str
    row: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Place:
    """How much of the data comes before: rows, and the documents among them (rows that are not blank)."""

    rows: int = 0
    documents: int = 0


def documents(spec: DataSpec, start: Place = Place()) -> Iterator[Document]:
    """Every document that is not blank, read lazily: memory stays bounded whatever the size of the data.

    A `.txt` file is one document (a long one is cut, at blank lines, into parts of 4,000 characters or a
    little more), a line of a `.jsonl` or `.json` file is one, and so is a row of
    everything else. A `title` column, where there is one, becomes the title.

    Args:
        spec: where they are.
        start: where to begin; what lies before is passed over, not looked at.

    Raises:
        SaelabError: nothing is there, it cannot be read, it is not text, or every document is blank.
    """
    index = start.documents
    for row, (where, title, text) in enumerate(_rows(spec, start.rows), start.rows):
        if not isinstance(text, str):
            found = "null" if text is None else type(text).__name__
            raise SaelabError(f"'{spec.text_column}' should be text, but is {found}", where=where)
        _check_unicode(text, where)
        if text and not text.isspace():
            yield Document(index, title if isinstance(title, str) else None, text, row)
            index += 1
    if index == 0:
        raise SaelabError("there is no document here, or all are blank", where=spec.dataset)


def identity(spec: DataSpec) -> dict[str, Any]:
    """Everything that determines the documents, as JSON: equal for equal data, wherever it is kept.

    Raises:
        SaelabError: as `documents`, for what is found out without reading the texts.
    """
    path = _locate(spec)
    if path is None:
        with _reading_dataset(spec, path):
            from datasets import load_dataset_builder

            builder = load_dataset_builder(spec.dataset, name=spec.subset, revision=spec.revision)
        # The commit, together with the rest, is what `datasets` makes its own fingerprint from.
        source = {"hub": spec.dataset, "subset": builder.config.name, "revision": builder.hash}
        return {**source, "split": spec.split, "text_column": spec.text_column}
    chosen = _files(path)
    if _is_saved(path):
        chosen = [file for file in chosen if file.suffix == ".arrow"]
    root = path if path.is_dir() else path.parent
    found = {file.relative_to(root).as_posix(): files.sha256_file(file) for file in chosen}
    parts = {"files": found, "text_column": spec.text_column}
    return parts if _is_plain(path) else {**parts, "subset": spec.subset, "split": spec.split}


def _locate(spec: DataSpec) -> Path | None:
    """Where the data is on this machine, or None for a dataset on the hub."""
    path = Path(assets.resolve(spec.dataset, kind="text")).expanduser()
    if not path.exists():
        if _HUB_ID.fullmatch(spec.dataset) and path.suffix not in _READERS:
            return None
        raise SaelabError(
            "there is no such file or directory, and a dataset on the hub would be called 'owner/name'",
            where=spec.dataset,
            fix=f"correct the path, or use a demo text: {assets.PREFIX}wikipedia-sample",
        )
    beside = {"revision": (spec.revision, None)}
    if _is_plain(path):
        beside |= {"subset": (spec.subset, None), "split": (spec.split, "train")}
    for key, (value, default) in beside.items():
        if value != default:
            raise SaelabError(
                f"`{key}: {value}` has no meaning for local files", where=spec.dataset, fix=f"remove `{key}`"
            )
    return path


def _rows(spec: DataSpec, skip: int) -> Iterator[Row]:
    path = _locate(spec)
    if path is None or not _is_plain(path):
        return _dataset_rows(spec, path, skip)
    return islice(_plain_rows(spec, path), skip, None)


# What kind of local data it is.


def _files(path: Path) -> list[Path]:
    """The file itself, or every file in the directory that is not hidden, in one order everywhere."""
    if path.is_file():
        return [path]
    found = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    visible = {name: file for name, file in found.items() if not any(part[0] == "." for part in name.parts)}
    if not visible:
        raise SaelabError("this directory holds no files", where=str(path))
    return [visible[name] for name in sorted(visible, key=lambda name: name.as_posix())]


def _is_saved(path: Path) -> bool:
    """Written by `save_to_disk` of a dataset, or of a dictionary of them."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _is_plain(path: Path) -> bool:
    """Files that saelab reads itself: neither saved by `datasets`, nor with a dataset card, nor named for splits."""
    if path.is_file():
        return True
    if _is_saved(path):
        return False
    card = path / "README.md"
    if card.is_file() and card.read_bytes().startswith(b"---"):
        return False
    names = (file.relative_to(path).with_suffix("").as_posix() for file in _files(path))
    return not all(_SPLIT_IN_NAME.search(name) for name in names)


# Plain files.


def _plain_rows(spec: DataSpec, path: Path) -> Iterator[Row]:
    for file in _files(path):
        try:
            yield from _reader(file)(file, spec.text_column)
        except OSError as error:
            raise SaelabError(f"this file cannot be read: {error.strerror}", where=str(file)) from error


def _reader(file: Path) -> Callable[[Path, str], Iterator[Row]]:
    if file.suffix not in _READERS:
        raise SaelabError(
            f"saelab reads {', '.join(_READERS)} files, not '{file.suffix}'",
            where=str(file),
            fix="convert it, name the wanted file itself, or keep other files out of the directory",
        )
    if file.stat().st_size == 0:
        raise SaelabError("this file is empty", where=str(file))
    return _READERS[file.suffix]


def _read_text(file: Path, column: str) -> Iterator[Row]:
    """The file as one document; a long one in parts of whole paragraphs, so that a single book can be
    split into training and held-out text."""
    part: list[str] = []
    for paragraph in re.split(r"\n\s*\n", _decode(file.read_bytes(), file, 0)):
        part.append(paragraph)
        if sum(map(len, part)) >= _PART_CHARACTERS:
            yield str(file), file.stem, "\n\n".join(part)
            part = []
    if part:
        yield str(file), file.stem, "\n\n".join(part)


def _read_json_lines(file: Path, column: str) -> Iterator[Row]:
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}:{number}"
            text = _decode(line, file, offset)
            offset += len(line)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise SaelabError(f"this line is not JSON: {error}", where=where) from error
            if not isinstance(row, dict):
                raise SaelabError(
                    f"this line should be a JSON object, but is a {type(row).__name__}",
                    where=where,
                    fix=f'write one document per line: {{"{column}": "..."}}',
                )
            _check_column(column, list(row), where)
            yield where, row.get("title"), row[column]


def _read_parquet(file: Path, column: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            _check_column(column, table.schema_arrow.names, str(file))
            wanted = [name for name in table.schema_arrow.names if name in (column, "title")]
            number = 0
            for batch in table.iter_batches(_ROWS_PER_BATCH, columns=wanted):
                for row in batch.to_pylist():
                    yield f"{file}: row {number} (counted from 0)", row.get("title"), row[column]
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SaelabError(f"not a readable parquet file: {error}", where=str(file)) from error


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}


def _decode(raw: bytes, file: Path, offset: int) -> str:
    """UTF-8 to text; `offset` is where in the file `raw` begins, in bytes."""
    if (zero := raw.find(0)) >= 0:
        raise SaelabError(f"this is not text: there is a zero byte at offset {offset + zero}", where=str(file))
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise SaelabError(
            f"this is not UTF-8 text: byte 0x{raw[error.start]:02x} at offset {offset + error.start}",
            where=str(file),
            fix="convert the file to UTF-8",
        ) from error


def _check_unicode(text: str, where: str) -> None:
    """JSON can escape one half of a surrogate pair; no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SaelabError(
            f"the text holds half a character, U+{ord(text[error.start]):04X}, at position {error.start}",
            where=where,
            fix="leave that document out, or repair how it was written",
        ) from error


def _check_column(column: str, columns: list[str], where: str) -> None:
    if column not in columns:
        hint = did_you_mean(column, columns)
        raise SaelabError(
            f"there is no column '{column}' here, only: {', '.join(columns) or 'none'}",
            where=where,
            fix="set `text_column` to the one that holds the text" + (f": {hint}" if hint else ""),
        )


# What the `datasets` library reads.


def _dataset_rows(spec: DataSpec, path: Path | None, skip: int) -> Iterator[Row]:
    column = spec.text_column
    with _reading_dataset(spec, path):
        dataset = _load_saved(path, spec) if path and _is_saved(path) else _load_repository(path, spec)
        if dataset.column_names is not None:  # a stream may not know them before its first row
            _check_column(column, dataset.column_names, spec.dataset)
            dataset = dataset.select_columns([name for name in dataset.column_names if name in (column, "title")])
        for number, row in enumerate(dataset.skip(skip) if skip else dataset, skip):
            where = f"{spec.dataset}: row {number} (counted from 0)"
            _check_column(column, list(row), where)
            yield where, row.get("title"), row[column]


def _load_saved(path: Path, spec: DataSpec) -> Dataset:
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(path)
    known = [str(split) for split in saved] if isinstance(saved, DatasetDict) else ["train", str(saved.split)]
    for key, value, choice in (("subset", spec.subset, [None]), ("split", spec.split, known)):
        if value not in choice:
            raise SaelabError(
                f"there is no {key} '{value}' in this saved dataset, only splits: {', '.join(known)}",
                where=spec.dataset,
            )
    return saved[spec.split] if isinstance(saved, DatasetDict) else saved


def _load_repository(path: Path | None, spec: DataSpec) -> Dataset | IterableDataset:
    from datasets import load_dataset

    options: dict[str, Any] = {"name": spec.subset, "split": spec.split, "revision": spec.revision}
    if path is not None and all(file.suffix == ".txt" for file in _files(path)):
        options["sample_by"] = "document"  # not by line: as for every other .txt file
    return load_dataset(str(path or spec.dataset), streaming=spec.streaming, **options)


@contextlib.contextmanager
def _reading_dataset(spec: DataSpec, path: Path | None) -> Iterator[None]:
    """Turn whatever `datasets` raises (anything from OSError to ValueError) into one readable error."""
    from datasets.exceptions import DatasetGenerationError

    try:
        yield
    except SaelabError:
        raise
    except Exception as error:
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        fix = _HUB_FIX if path is None else "check `subset` and `split`, and the files themselves"
        scripted = path is None and "scripts are no longer supported" in str(reason)  # they are code from data
        raise SaelabError(
            f"could not read this dataset: {reason}".replace("\n", " "),
            where=spec.dataset,
            fix=_SCRIPT_FIX if scripted else fix,
        ) from error
