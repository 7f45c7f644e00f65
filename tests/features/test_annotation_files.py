"""Annotations go out and come in the same, to the character; a wrong line is named and nothing comes in."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.errors import SaelabError
from saelab.features.annotation_files import load, save
from saelab.features.annotations import NOTE_LIMIT, Annotation, Annotations
from saelab.testing.bundles import HOSTILE

A = "a" * 64
AT = "2026-01-31T12:00:00.000001Z"
TRICKY = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    st.text("='+-@\t\r\n\"',;\0\ufeff\u2028x", max_size=8),
    st.sampled_from([text[:1000] for text in HOSTILE]),
)
ANNOTATIONS = st.builds(
    Annotation,
    st.just(A),
    st.integers(0, 2**31 - 1),
    TRICKY,
    TRICKY,
    st.booleans(),
    st.lists(TRICKY.map(lambda s: s[:100]).filter(str.strip), max_size=3, unique=True).map(lambda s: tuple(sorted(s))),
    st.just(AT),
)
FORMATS = pytest.mark.parametrize("ending", [".csv", ".jsonl", ".CSV"])


@FORMATS
@settings(max_examples=60, deadline=None)
@given(annotations=st.lists(ANNOTATIONS, max_size=4, unique_by=lambda a: a.latent))
def test_a_file_is_read_as_it_was_written(ending: str, annotations: list[Annotation]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"notes{ending}"
        save(annotations, path)
        assert load(path) == annotations


@FORMATS
def test_long_texts_fit(tmp_path: Path, ending: str) -> None:
    annotations = [Annotation(A, 1, "=" * 1000, "=" + "\n" * (NOTE_LIMIT - 1), updated=AT)]
    save(annotations, tmp_path / f"notes{ending}")
    assert load(tmp_path / f"notes{ending}") == annotations


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "'quoted", "plain"]
    save([Annotation(A, i, text, text, lists=(text,), updated=AT) for i, text in enumerate(texts)], tmp_path / "n.csv")
    with (tmp_path / "n.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert [a.label for a in load(tmp_path / "n.csv")] == texts


def test_a_file_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = f"\ufefflatent,sae,label,bookmarked\r\n7,{A},'tis,TRUE\r\n\r\n8,{A},,\r\n"
    (tmp_path / "n.csv").write_text(text, newline="")
    seven, eight = load(tmp_path / "n.csv")
    assert (seven.latent, seven.label, seven.bookmarked) == (7, "'tis", True)
    assert seven.updated > AT
    assert (eight.latent, eight.label, eight.bookmarked) == (8, "", False)


def test_times_of_any_zone_are_compared_in_one(tmp_path: Path) -> None:
    line = f'{{"sae": "{A}", "latent": 1, "updated": "2026-01-31T13:00:00.000001+01:00"}}\n\n'
    (tmp_path / "n.jsonl").write_text(line)
    assert load(tmp_path / "n.jsonl")[0].updated == AT


GOOD = f'{{"sae": "{A}", "latent": 1}}\n'


@pytest.mark.parametrize(
    ("name", "content", "place", "message"),
    [
        ("n.jsonl", GOOD + '{"sae": 1', ":2", "not JSON: Expecting ',' delimiter: line 1 column 10 (char 9)"),
        ("n.jsonl", GOOD + "[1]", ":2", "expected an object, found '[1]'"),
        ("n.jsonl", '{"latent": 1}', ":1", "the field 'sae' is missing"),
        ("n.jsonl", '{"sae": "x", "latent": "1"}', ":1", "latent has to be a number, found '1'"),
        ("n.jsonl", '{"sae": "x", "latent": true}', ":1", "latent has to be a number, found 'True'"),
        ("n.jsonl", '{"sae": "x", "latent": -1}', ":1", "a latent is a number from 0, found -1"),
        ("n.jsonl", '{"sae": "x", "latent": 1, "lable": "x"}', ":1", "there is no field 'lable'"),
        ("n.jsonl", '{"sae": "x", "latent": 1, "lists": [1]}', ":1", "lists has to be names, found '[1]'"),
        ("n.jsonl", '{"sae": "x", "latent": 1, "label": "\\ud800"}', ":1", "a label is not valid Unicode: character 1"),
        ("n.jsonl", GOOD + "\n" + GOOD, ":3", "line 1 says something of latent 1 already"),
        ("n.jsonl", "[" * 100_000, ":1", "not JSON: "),
        ("n.csv", "sae,latent\nx,1,2\n", ":2", "expected 2 cells, found 3"),
        ("n.csv", 'sae,latent,label\nx,1,"a\nb"\ny,one,c\n', ":4", "latent has to be a number, found 'one'"),
        ("n.csv", "sae,latent,bookmarked\nx,1,perhaps\n", ":2", "bookmarked has to be true or false, found 'perhaps'"),
        ("n.csv", "sae,latent,lists\nx,1,a b\n", ":2", "lists has to be a list of names, found 'a b'"),
        ("n.csv", "sae,latent,updated\nx,1,today\n", ":2", "updated has to be a time such as 2026-01-31"),
        ("n.csv", "sae,latent,updated\nx,1,2026-01-31\n", ":2", "updated needs a time zone, such as 2026-01"),
        ("n.csv", f"sae,latent\nx,{'9' * 5000}\n", ":2", "a latent is a number from 0, found 99999999999999999999"),
        ("n.csv", 'sae,latent\nx,"1\n', ":2", "not CSV: unexpected end of data"),
        ("n.txt", "", "", "no format has the ending '.txt'"),
        ("absent.csv", None, "", "this file does not exist"),
        ("n.csv", b"\xff\xfe", "", "not a readable UTF-8 file: 'utf-8' codec can't decode"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(
    tmp_path: Path, name: str, content: str | bytes | None, place: str, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SaelabError) as caught:
        load(path)
    assert caught.value.where == f"{path}{place}"
    assert caught.value.message.startswith(message)


def test_a_whole_file_goes_from_one_machine_to_another(tmp_path: Path) -> None:
    here, there = Annotations(tmp_path / "here.sqlite"), Annotations(tmp_path / "there.sqlite")
    for latent, text in enumerate(HOSTILE):
        here.set_note(A, latent, text)
        here.add_to_list(A, latent, text[:100].strip() or "x")
    save(here.all(), tmp_path / "n.csv")
    there.merge(load(tmp_path / "n.csv"))
    assert there.all() == here.all()
