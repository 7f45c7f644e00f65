"""What people write about latents: a label, a note, a bookmark, lists. One SQLite file beside the run directories.

The key is the SAE's sha256 and the latent, so what is written survives a rebuilt index and a renamed run. Every call
has a connection of its own and every write is one transaction, so threads and processes may share the file. Text is
stored as it came; whoever shows it escapes it (`saelab.features.render`).
"""

from __future__ import annotations

import json
import operator
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from saelab.errors import SaelabError
from saelab.files import writing

NAME = "annotations.sqlite"
LABEL_LIMIT, NOTE_LIMIT, LIST_LIMIT = 1_000, 100_000, 100
OnConflict = Literal["newer", "keep", "replace"]

_SCHEMA, _APPLICATION = 1, 0x5341454C
_WAIT_SECONDS = 30.0
_QUERY_WORDS = 32
_TABLES = f"""
PRAGMA journal_mode = WAL;
CREATE TABLE annotation (
    id INTEGER PRIMARY KEY, sae TEXT NOT NULL, latent INTEGER NOT NULL,
    label TEXT NOT NULL, note TEXT NOT NULL, bookmarked INTEGER NOT NULL, lists TEXT NOT NULL, updated TEXT NOT NULL,
    UNIQUE (sae, latent)
);
CREATE VIRTUAL TABLE words USING fts5 (
    label, note, content = 'annotation', content_rowid = 'id', prefix = '2 3',
    tokenize = "unicode61 remove_diacritics 2 categories 'L* M* N* Co So'"
);
CREATE TRIGGER added AFTER INSERT ON annotation BEGIN
    INSERT INTO words (rowid, label, note) VALUES (new.id, new.label, new.note);
END;
CREATE TRIGGER removed AFTER DELETE ON annotation BEGIN
    INSERT INTO words (words, rowid, label, note) VALUES ('delete', old.id, old.label, old.note);
END;
CREATE TRIGGER changed AFTER UPDATE ON annotation BEGIN
    INSERT INTO words (words, rowid, label, note) VALUES ('delete', old.id, old.label, old.note);
    INSERT INTO words (rowid, label, note) VALUES (new.id, new.label, new.note);
END;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_SCHEMA};
"""
_COLUMNS = "sae, latent, label, note, bookmarked, lists, updated"
_WRITE = f"""
INSERT INTO annotation ({_COLUMNS}) VALUES (:sae, :latent, :label, :note, :bookmarked, :lists, :updated)
ON CONFLICT (sae, latent) DO UPDATE SET label = excluded.label, note = excluded.note, bookmarked = excluded.bookmarked,
    lists = excluded.lists, updated = excluded.updated
"""


@dataclass(frozen=True)
class Annotation:
    """What is written about one latent; all empty where nothing is.

    Attributes:
        sae, latent: whose, by the SAE's sha256; lists: names, in order of the alphabet.
        updated: when something changed last, ISO 8601 in UTC.
    """

    sae: str
    latent: int
    label: str = ""
    note: str = ""
    bookmarked: bool = False
    lists: tuple[str, ...] = ()
    updated: str = ""

    def __bool__(self) -> bool:
        return bool(self.label or self.note or self.bookmarked or self.lists)


FIELDS = tuple(field.name for field in fields(Annotation))


@dataclass(frozen=True)
class Merged:
    """How many annotations of a file were new here, changed something, or said nothing new."""

    added: int
    changed: int
    unchanged: int


def check(annotation: Annotation) -> None:
    """Raises SaelabError where a text is too long or not Unicode, a list has no name, or the latent is none."""
    if not 0 <= annotation.latent < 2**31:
        raise SaelabError(f"a latent is a number from 0, found {annotation.latent}")
    if not 0 < len(annotation.sae) <= 128:
        raise SaelabError(f"an SAE is named by its sha256, found {annotation.sae[:128]!r}")
    _check_text("a label", annotation.label, LABEL_LIMIT)
    _check_text("a note", annotation.note, NOTE_LIMIT)
    for name in annotation.lists:
        _check_text("a list's name", name, LIST_LIMIT)
        if not name.strip():
            raise SaelabError("a list needs a name")


def _check_text(what: str, text: str, limit: int) -> None:
    if len(text) > limit:
        fix = "shorten it, or put the rest into the note" if limit == LABEL_LIMIT else "shorten it"
        raise SaelabError(f"{what} has at most {limit:,} characters, found {len(text):,}", fix=fix)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SaelabError(f"{what} is not valid Unicode: character {error.start + 1} is half of a pair") from error


class Annotations:
    """The annotations in one file, which the first write creates. Threads and processes may share it.

    Raises:
        SaelabError: from any call, where the file is another program's, a newer saelab's or damaged, or cannot be
            written; from writes, where a text is too long.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def beside(cls, run: Path) -> Annotations:
        """Those of the runs in the directory that holds `run`."""
        return cls(Path(os.path.abspath(run)).parent / NAME)

    # -- reading ------------------------------------------------------------------------------------------

    def get(self, sae: str, latent: int) -> Annotation:
        """What is written about a latent."""
        found = self._select("WHERE sae = ? AND latent = ?", (sae, operator.index(latent)))
        return found[0] if found else Annotation(sae, operator.index(latent))

    def labelled(self, sae: str) -> dict[int, Annotation]:
        """Every latent of an SAE about which anything is written, in order."""
        return {found.latent: found for found in self._select("WHERE sae = ? ORDER BY latent", (sae,))}

    def all(self) -> list[Annotation]:
        """Everything in the file, by SAE and latent."""
        return self._select("ORDER BY sae, latent", ())

    def lists(self, sae: str) -> dict[str, int]:
        """The lists of an SAE by name, and how many latents are in each."""
        rows = self._rows("SELECT lists FROM annotation WHERE sae = ? AND lists != '[]'", (sae,))
        return dict(sorted(Counter(name for (names,) in rows for name in json.loads(names)).items()))

    def search(self, sae: str, text: str) -> list[int]:
        """Latents whose label and note hold every word of `text`, or words that begin so; the best match first."""
        words = text.replace("\0", " ").encode(errors="ignore").decode().split()[:_QUERY_WORDS]
        if not words:
            return []
        match = " ".join('"' + word.replace('"', '""') + '" *' for word in words)
        rows = self._rows(
            "SELECT latent FROM words JOIN annotation ON annotation.id = words.rowid "
            "WHERE words MATCH ? AND sae = ? ORDER BY bm25(words, 4.0, 1.0), latent",
            (match, sae),
        )
        return [latent for (latent,) in rows]

    # -- writing ------------------------------------------------------------------------------------------

    def set_label(self, sae: str, latent: int, label: str) -> Annotation:
        return self._change(sae, latent, lambda old: replace(old, label=label))

    def set_note(self, sae: str, latent: int, note: str) -> Annotation:
        return self._change(sae, latent, lambda old: replace(old, note=note))

    def set_bookmark(self, sae: str, latent: int, bookmarked: bool) -> Annotation:
        return self._change(sae, latent, lambda old: replace(old, bookmarked=bool(bookmarked)))

    def add_to_list(self, sae: str, latent: int, name: str) -> Annotation:
        return self._change(sae, latent, lambda old: replace(old, lists=tuple(sorted({*old.lists, name}))))

    def remove_from_list(self, sae: str, latent: int, name: str) -> Annotation:
        return self._change(sae, latent, lambda old: replace(old, lists=tuple(n for n in old.lists if n != name)))

    def merge(self, others: Iterable[Annotation], on_conflict: OnConflict = "newer") -> Merged:
        """Take in others' annotations, all or none. Lists and bookmarks add up, and an empty text never wins.

        Args:
            on_conflict: whose label and note stay where both are written and differ: the newer one's, ours (keep),
                theirs (replace).
        """
        added = changed = unchanged = 0
        with self._writing() as db:
            for other in others:
                check(other)
                old = _read(db, other.sae, other.latent)
                new = _merged(old, other, on_conflict)
                added += bool(new) and not old
                changed += bool(old) and new != old
                unchanged += new == old or not new
                if new != old and new:
                    _write(db, new)
        return Merged(added, changed, unchanged)

    def _change(self, sae: str, latent: int, change: Callable[[Annotation], Annotation]) -> Annotation:
        """Read, change and write one latent's annotation; returns what is written now."""
        check(change(Annotation(sae, operator.index(latent))))
        with self._writing() as db:
            old = _read(db, sae, operator.index(latent))
            new = change(old)
            if new != old:
                new = replace(new, updated=now())
                _write(db, new)
        return new

    # -- the file -----------------------------------------------------------------------------------------

    def _select(self, where: str, values: Sequence[Any]) -> list[Annotation]:
        return [_annotation(row) for row in self._rows(f"SELECT {_COLUMNS} FROM annotation {where}", values)]

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        """Nothing where nothing was ever written: looking makes no file."""
        if not self.path.exists():
            return []
        with self._connected() as db:
            return db.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has the file to itself; undone where the block fails."""
        if not self.path.exists():
            self._create()
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _create(self) -> None:
        """A whole file or none, whoever else creates it at this moment."""
        temporary = self.path.with_name(f"{self.path.name}.tmp-{uuid4().hex[:8]}")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._errors(), closing(sqlite3.connect(temporary)) as db:
                    db.executescript(_TABLES)
                os.link(temporary, self.path)
            except FileExistsError:
                pass
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # where nothing can be written there is no room for the log's index either: read the file as it is
        mode = "rw" if os.access(self.path.parent, os.W_OK) else "ro&immutable=1"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        options: dict[str, Any] = {"uri": True, "timeout": _WAIT_SECONDS, "isolation_level": None}
        with self._errors(), closing(sqlite3.connect(uri, **options)) as db:
            self._check_schema(db)
            yield db

    def _check_schema(self, db: sqlite3.Connection) -> None:
        (application,), (version,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if application != _APPLICATION:
            raise SaelabError("this database is another program's", where=str(self.path), fix="move it elsewhere")
        if version != _SCHEMA:
            message = f"these annotations were written by a newer saelab (schema {version}, this one knows {_SCHEMA})"
            raise SaelabError(message, where=str(self.path), fix="pip install --upgrade saelab")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            reason = str(error)
            fix = None
            if "locked" in reason:
                reason, fix = "another process has held it for 30 seconds", "wait for it to end, then do it again"
            elif "not a database" in reason or "malformed" in reason:
                fix = "move it elsewhere, and import an export of it (saelab annotations import)"
            message = f"these annotations cannot be read or written: {reason}"
            raise SaelabError(message, where=str(self.path), fix=fix) from error


def now() -> str:
    """The time in the form of `Annotation.updated`: later times sort later."""
    return utc(datetime.now(UTC))


def utc(time: datetime) -> str:
    """A time with a zone in the form of `Annotation.updated`."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _merged(ours: Annotation, theirs: Annotation, on_conflict: OnConflict) -> Annotation:
    """See `Annotations.merge`."""
    choose = {"newer": theirs.updated > ours.updated, "keep": False, "replace": True}
    first, second = (theirs, ours) if choose[on_conflict] else (ours, theirs)
    return Annotation(
        ours.sae,
        ours.latent,
        first.label or second.label,
        first.note or second.note,
        first.bookmarked or second.bookmarked,
        tuple(sorted({*first.lists, *second.lists})),
        max(ours.updated, theirs.updated),
    )


def _read(db: sqlite3.Connection, sae: str, latent: int) -> Annotation:
    row = db.execute(f"SELECT {_COLUMNS} FROM annotation WHERE sae = ? AND latent = ?", (sae, latent)).fetchone()
    return _annotation(row) if row else Annotation(sae, latent)


def _write(db: sqlite3.Connection, new: Annotation) -> None:
    if new:
        db.execute(_WRITE, {**asdict(new), "lists": json.dumps(new.lists)})
    else:
        db.execute("DELETE FROM annotation WHERE sae = ? AND latent = ?", (new.sae, new.latent))


def _annotation(row: Sequence[Any]) -> Annotation:
    sae, latent, label, note, bookmarked, lists, updated = row
    return Annotation(sae, latent, label, note, bool(bookmarked), tuple(json.loads(lists)), updated)
