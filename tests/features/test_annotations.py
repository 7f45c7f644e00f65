"""What people write is kept as they wrote it, whoever else writes at the same time."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saelab.errors import SaelabError
from saelab.features.annotations import LABEL_LIMIT, LIST_LIMIT, NOTE_LIMIT, Annotation, Annotations, Merged
from saelab.testing.bundles import HOSTILE

A, B = "a" * 64, "b" * 64
UNICODE = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
SHARED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def notes(tmp_path: Path) -> Annotations:
    return Annotations(tmp_path / "runs" / "annotations.sqlite")


def test_what_is_written_is_there_for_the_next_to_open_it(notes: Annotations) -> None:
    notes.set_label(A, 5, "dates")
    notes.set_note(A, 5, "years,\nmostly")
    notes.set_bookmark(A, 5, True)
    notes.add_to_list(A, 5, "time")
    notes.add_to_list(A, 5, "good")
    notes.add_to_list(A, 7, "good")
    again = Annotations(notes.path)
    found = again.get(A, 5)
    assert found == Annotation(A, 5, "dates", "years,\nmostly", True, ("good", "time"), found.updated)
    assert again.lists(A) == {"good": 2, "time": 1}
    assert list(again.labelled(A)) == [5, 7]
    assert [a.latent for a in again.all()] == [5, 7]
    assert os.listdir(notes.path.parent) == ["annotations.sqlite"]


def test_saes_do_not_mix(notes: Annotations) -> None:
    notes.set_label(A, 5, "dates")
    notes.set_label(B, 5, "names")
    assert notes.labelled(A)[5].label == "dates"
    assert notes.search(B, "dates") == []
    assert notes.get(B, 6) == Annotation(B, 6)


def test_looking_makes_no_file(notes: Annotations) -> None:
    assert notes.get(A, 1) == Annotation(A, 1)
    assert (notes.labelled(A), notes.lists(A), notes.search(A, "x"), notes.all()) == ({}, {}, [], [])
    assert not notes.path.parent.exists()


def test_what_is_taken_away_is_gone(notes: Annotations) -> None:
    notes.set_label(A, 5, "dates")
    notes.add_to_list(A, 5, "time")
    notes.set_label(A, 5, "")
    assert notes.search(A, "dates") == []
    notes.remove_from_list(A, 5, "time")
    notes.remove_from_list(A, 5, "never there")
    assert notes.labelled(A) == {}


def test_latents_come_as_numpy_numbers_too(notes: Annotations) -> None:
    notes.set_label(A, np.int64(5), "dates")  # pyright: ignore[reportArgumentType]
    assert notes.get(A, np.int32(5)).label == "dates"  # pyright: ignore[reportArgumentType]


@SHARED
@given(label=UNICODE, note=UNICODE, name=UNICODE.filter(str.strip))
def test_any_text_is_kept_to_the_character(notes: Annotations, label: str, note: str, name: str) -> None:
    notes.set_label(A, 0, label)
    notes.set_note(A, 0, note)
    notes.add_to_list(A, 0, name)
    found = notes.get(A, 0)
    assert (found.label, found.note, found.lists) == (label, note, (name,))
    assert notes.lists(A) == {name: 1}
    notes.remove_from_list(A, 0, name)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_notes_are_kept_and_found(notes: Annotations, text: str) -> None:
    notes.set_note(A, 1, text + " marker")
    assert notes.get(A, 1).note == text + " marker"
    assert notes.search(A, "mark") == [1]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda n: n.set_label(A, 0, "x" * (LABEL_LIMIT + 1)), "a label has at most 1,000 characters, found 1,001"),
        (lambda n: n.set_note(A, 0, "x" * (NOTE_LIMIT + 1)), "a note has at most 100,000 characters, found 100,001"),
        (lambda n: n.add_to_list(A, 0, "x" * (LIST_LIMIT + 1)), "a list's name has at most 100 characters, found 101"),
        (lambda n: n.add_to_list(A, 0, " "), "a list needs a name"),
        (lambda n: n.set_label(A, 0, "a\ud800"), "a label is not valid Unicode: character 2 is half of a pair"),
        (lambda n: n.set_label(A, -1, "x"), "a latent is a number from 0, found -1"),
        (lambda n: n.set_label("", 1, "x"), "an SAE is named by its sha256, found ''"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_written(notes: Annotations, write, message: str) -> None:
    with pytest.raises(SaelabError) as caught:
        write(notes)
    assert caught.value.message == message
    assert not notes.path.exists()


def test_texts_at_the_limits_are_kept(notes: Annotations) -> None:
    notes.set_label(A, 0, "é" * LABEL_LIMIT)
    notes.set_note(A, 0, "é" * NOTE_LIMIT)
    notes.add_to_list(A, 0, "é" * LIST_LIMIT)
    assert len(notes.get(A, 0).note) == NOTE_LIMIT


# -- search -------------------------------------------------------------------------------------------


def test_search_takes_beginnings_of_words_in_any_order_the_label_first(notes: Annotations) -> None:
    notes.set_note(A, 1, "fires on the names of cities")
    notes.set_label(A, 2, "City names")
    notes.set_label(A, 3, "naïve Straße C++ 🙂")
    notes.set_label(A, 4, "हिन्दी")
    assert notes.search(A, "nam cit") == [2, 1]
    assert notes.search(A, "NAMES   ci") == [2, 1]
    assert notes.search(A, "naive") == [3]
    assert notes.search(A, "c++ strasse") == []
    assert notes.search(A, "c++ straße") == [3]
    assert notes.search(A, "🙂") == [3]
    assert notes.search(A, "हिन्") == [4]
    assert notes.search(A, "city -names") == [2]
    assert notes.search(A, "ities") == []


@pytest.mark.parametrize(
    "text",
    ["", "  ", '"', '""', "*", "'; DROP TABLE annotation; --", "NEAR(", "AND", "a OR", "NOT x", "label:", "^x", "-x",
     "{a b}", "(", "\0", "a\0b", "\ud800", "x" * 100_000, "x " * 10_000, "!!!", '"unclosed', "a*b*", "rank MATCH 'x'"],
)  # fmt: skip
def test_no_search_is_a_command(notes: Annotations, text: str) -> None:
    notes.set_label(A, 1, "dates")
    assert notes.search(A, text) == []
    assert notes.search(A, "dates") == [1]


@SHARED
@given(text=st.text(st.characters(), max_size=20))
def test_any_text_can_be_searched_for(notes: Annotations, text: str) -> None:
    notes.set_label(A, 1, "dates")
    assert notes.search(A, text) in ([], [1])


# -- merging ------------------------------------------------------------------------------------------

OLD, NEW = "2026-01-01T00:00:00.000000Z", "2026-02-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("on_conflict", "theirs_at", "label"),
    [("newer", NEW, "theirs"), ("newer", OLD, "ours"), ("keep", NEW, "ours"), ("replace", OLD, "theirs")],
)
def test_a_merge_loses_nothing_that_does_not_conflict(
    notes: Annotations, on_conflict, theirs_at: str, label: str
) -> None:
    ours = Annotation(A, 1, "ours", "", True, ("x",), "2026-01-15T00:00:00.000000Z")
    assert notes.merge([ours]) == Merged(1, 0, 0)
    theirs = Annotation(A, 1, "theirs", "a note", False, ("y",), theirs_at)
    other = Annotation(A, 2, "new", updated=NEW)
    assert notes.merge([theirs, other, Annotation(A, 3)], on_conflict) == Merged(1, 1, 1)
    later = max(theirs_at, ours.updated)
    assert notes.labelled(A) == {1: Annotation(A, 1, label, "a note", True, ("x", "y"), later), 2: other}
    assert notes.merge([theirs, other], on_conflict) == Merged(0, 0, 2)


def test_a_merge_is_all_or_nothing(notes: Annotations) -> None:
    notes.set_label(A, 1, "ours")
    with pytest.raises(SaelabError, match="a label has at most"):
        notes.merge([Annotation(A, 2, "fine"), Annotation(A, 3, "x" * 1_001)])
    assert list(notes.labelled(A)) == [1]


# -- the file -----------------------------------------------------------------------------------------


def test_a_newer_file_is_left_alone(notes: Annotations) -> None:
    notes.set_label(A, 1, "x")
    _pragma(notes.path, "user_version = 9")
    with pytest.raises(SaelabError) as caught:
        notes.get(A, 1)
    assert str(caught.value) == (
        f"{notes.path}: these annotations were written by a newer saelab (schema 9, this one knows 1)\n"
        "  fix: pip install --upgrade saelab"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this database is another program's"),
        (
            b"certainly not a database, whatever it is called\n" * 40,
            "cannot be read or written: file is not a database",
        ),
    ],
)
def test_a_foreign_file_is_left_alone(notes: Annotations, content: bytes, message: str) -> None:
    notes.path.parent.mkdir()
    notes.path.write_bytes(content)
    for call in (lambda: notes.get(A, 1), lambda: notes.set_label(A, 1, "x"), lambda: notes.merge([])):
        with pytest.raises(SaelabError, match=message) as caught:
            call()
        assert caught.value.where == str(notes.path)
        assert caught.value.fix is not None
    assert notes.path.read_bytes() == content


def test_another_programs_database_is_left_alone(notes: Annotations) -> None:
    notes.path.parent.mkdir()
    _pragma(notes.path, "application_id = 7")
    with pytest.raises(SaelabError, match="another program's"):
        notes.set_label(A, 1, "x")


def test_a_file_where_nothing_can_be_written_is_read(notes: Annotations, monkeypatch: pytest.MonkeyPatch) -> None:
    notes.set_label(A, 1, "x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert notes.get(A, 1).label == "x"
    with pytest.raises(SaelabError, match="cannot be read or written: attempt to write a readonly database"):
        notes.set_label(A, 1, "y")


def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SaelabError, match="could not write this file") as caught:
        Annotations(tmp_path / "runs" / "annotations.sqlite").set_label(A, 1, "x")
    assert caught.value.where == str(tmp_path / "runs" / "annotations.sqlite")


def test_threads_share_one(notes: Annotations) -> None:
    def work(thread: int) -> None:
        for i in range(15):
            notes.add_to_list(A, 0, f"{thread}-{i}")
            notes.set_label(A, 1 + thread, str(i))
            assert notes.get(A, 1 + thread).label == str(i)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(notes.get(A, 0).lists) == 60


def _write_much(path: Path, who: int, count: int) -> None:
    notes = Annotations(path)
    for i in range(count):
        notes.add_to_list(A, 0, f"{who}-{i}")
        notes.set_label(A, 1 + who * count + i, f"label {who} {i}")
        assert notes.search(A, f"label {who} {i}") != []


@pytest.mark.slow
def test_processes_lose_nothing_of_each_others(notes: Annotations) -> None:
    count, context = 40, multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_much, args=(notes.path, who, count)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(notes.get(A, 0).lists) == 3 * count
    assert len(notes.labelled(A)) == 3 * count + 1
    assert len(notes.search(A, "label")) == 3 * count


def _pragma(path: Path, pragma: str) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA {pragma}")
    db.close()
