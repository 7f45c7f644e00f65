from __future__ import annotations

import bz2
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from saelab.errors import SaelabError
from saelab.lm.wikitext import articles, clean, convert


def test_prose_survives_and_markup_does_not():
    text = clean(
        "{{Infobox|name=A}}\n[[File:a.jpg|thumb|A [[caption]]]]\n"
        "'''A''' is ''the'' [[letter (alphabet)|letter]] of [[Rome]]s.<ref name=\"x\">Smith {{cite}}</ref><ref/>\n\n"
        "See [http://a.org this page]&nbsp;– <!-- not --> or &lt;that&gt;.[[Category:Letters]] [[fr:A]] __TOC__"
    )
    assert text == "A is the letter of Romes.\n\nSee this page – or <that>."


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''A''' ({{IPAc-en|eɪ}}; named {{respell|AY}}, plural ''As'')", "A (named, plural As)"),
        ("Albedo ({{IPAc-en|x}}) or [[x|reflection]]", "Albedo or reflection"),
        ("X ( , ; born 1900) . Y", "X (born 1900). Y"),
        ("the value <math>x</math>, and more", "the value, and more"),
        ("''Iliad'''s end", "Iliad's end"),
        ("H<sub>2</sub>O, 10<sup>6</sup> m, 20<sup>th</sup>", "H2O, 10^6 m, 20th"),
    ],
)
def test_what_a_removed_piece_leaves_is_tidied(wikitext: str, text: str):
    assert clean(wikitext) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{lang|grc|λόγος}}", "λόγος"),
        ("{{lang-de|Wort}}", "Wort"),
        ("{{convert|1300|mi|km|abbr=on}}", "1300 mi"),
        ("{{convert|60|to|80|km2}}", "60 to 80 km²"),
        ("{{As of|2014|lc=y}}", "as of 2014"),
        ("{{as of|2014}}", "As of 2014"),
        ("{{frac|3}}", "1/3"),
        ("{{frac|1|2|3}}", "1 2/3"),
        ("{{chem|H|2|O}}", "H2O"),
        ("{{val|6.241|e=18}}", "6.241×10^18"),
        ("{{nowrap|[[Apollo 7]]}}", "Apollo 7"),
        ("15{{nbsp}}May", "15 May"),
        ("{{unknown|words}}", ""),
        ("{{lang}}", ""),
    ],
)
def test_templates_that_belong_to_the_sentence_keep_their_words(template: str, words: str):
    assert clean(f"({template}) it") == (f"({words}) it" if words else "it")


def test_tables_go_even_when_nested_or_unbalanced():
    nested = 'a\n{| class="wikitable"\n|-\n! x || y\n| \n{|\n| z\n|}\n|}\nb'
    assert clean(nested) == "a\n\nb"
    assert clean("a\n\n|-\n| align=left | 1\n! 2\n\nb") == "a\n\nb"
    assert clean("a\n<gallery>\nFile:b.jpg|b\n</gallery>\nc<timeline>x</timeline>") == "a\n\nc"


def test_empty_sections_and_apparatus_go_with_their_headings():
    wikitext = (
        "Intro.\n== Empty ==\n{{main|B}}\n== Full ==\n=== Part ===\nText.\n=== Nothing ===\n"
        "== See also ==\n* [[B]]\n=== Also this ===\n* [[C]]\n== Last ==\nEnd.\n== References ==\n{{reflist}}"
    )
    assert clean(wikitext) == "Intro.\n\nFull\n\nPart\n\nText.\n\nLast\n\nEnd."


def test_lists_keep_their_words_but_not_their_bullets():
    assert clean("Of:\n* one\n** two\n* {{cite book|x}}, 3rd edition\n* {{cite book|y}}\n:; three") == (
        "Of:\none\ntwo\n3rd edition\n\nthree"
    )


def dump(path: Path, pages: str, prologue: str = "") -> Path:
    xml = f'<?xml version="1.0"?>{prologue}<mediawiki xmlns="http://www.mediawiki.org/x">{pages}</mediawiki>'
    path.write_bytes(bz2.compress(xml.encode()))
    return path


def page(title: str, text: str, extra: str = "") -> str:
    return f"<page><title>{title}</title>{extra}<revision><text>{text}</text></revision></page>"


def test_convert_writes_title_and_text_and_copies_the_rest(tmp_path: Path):
    pages = page("A &amp; B", "''One.''") + page("Alias", "#REDIRECT [[A]]", "<redirect/>") + page("C", "Two.")
    source, beside, target = dump(tmp_path / "a.bz2", pages), tmp_path / "questions.txt", tmp_path / "made"
    beside.write_text(": capitals\n")
    target.mkdir()
    convert([source, beside], target)
    assert pq.read_table(target / "wikipedia.parquet").to_pylist() == [
        {"title": "A & B", "text": "One."},
        {"title": "C", "text": "Two."},
    ]
    assert (target / "questions.txt").read_text() == ": capitals\n"


def test_a_dump_with_a_dtd_is_refused(tmp_path: Path):
    path = dump(tmp_path / "a.bz2", page("A", "&bomb;"), '<!DOCTYPE mediawiki [<!ENTITY bomb "boom">]>')
    with pytest.raises(SaelabError, match=r"this dump declares a document type \('mediawiki'\)"):
        list(articles(path))


@pytest.mark.parametrize("content", [b"no bz2", bz2.compress(b"<a>"), bz2.compress(b"<a/>")[:-8]])
def test_what_is_not_a_dump_is_one_readable_error(tmp_path: Path, content: bytes):
    (tmp_path / "a.bz2").write_bytes(content)
    with pytest.raises(SaelabError, match=r"a\.bz2: not a readable MediaWiki dump: "):
        list(articles(tmp_path / "a.bz2"))
