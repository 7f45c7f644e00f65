"""YAML as data: which text is which value, and what a file may not hold."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelab.config.document import read_document, write_document
from saelab.errors import SaelabError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3e-4", 0.0003),
        ("1E5", 100000.0),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("7.", 7.0),
        ("32", 32),
        ("+32", 32),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("", None),
        ("~", None),
        ("null", None),
    ],
)
def test_plain_values_follow_the_core_schema(text: str, value: Any) -> None:
    found = read_document(f"key: {text}", "t").data["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["on", "off", "yes", "No", "1_000", "12:30:00", "2024-01-01", "0b11", "1e", "e3", "=", "nan", "inf"],
)
def test_everything_else_is_text(text: str) -> None:
    assert read_document(f"key: {text}", "t").data == {"key": text}


def test_quotes_make_text() -> None:
    assert read_document("""a: "32"\nb: '1e-3'\nc: "null"\nd: |\n  5\n""", "t").data == {
        "a": "32",
        "b": "1e-3",
        "c": "null",
        "d": "5\n",
    }


def test_keys_stay_text() -> None:
    assert read_document("1: a\ntrue: b\n2.50: c", "t").data == {"1": "a", "true": "b", "2.50": "c"}


def test_every_key_and_item_knows_its_line() -> None:
    document = read_document("# first\na:\n  b: 1\n\n  c:\n  - 2\n  - d: 3\n", "t")
    assert document.lines == {
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 5,
        ("a", "c", 0): 6,
        ("a", "c", 1): 7,
        ("a", "c", 1, "d"): 7,
    }


def test_aliases_repeat_what_they_name() -> None:
    document = read_document("a: &x {k: 1}\nb: *x\nc: [*x, *x]", "t")
    assert document.data == {"a": {"k": 1}, "b": {"k": 1}, "c": [{"k": 1}, {"k": 1}]}
    assert document.issues == {}


def test_a_bomb_and_a_cycle_of_aliases_are_refused_at_once() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    long_text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 10_000)}]"
    start = time.monotonic()
    for text in (
        bomb,
        long_text,
        "a: &a [*a, *a]",
        "a: &a {b: *a}",
        "a: " + "[" * 5000,
        "a: " + "[" * 60 + "]" * 60,
    ):
        with pytest.raises(SaelabError) as caught:
            read_document(text, "t.yaml")
        assert str(caught.value) == (
            "t.yaml: too much YAML: over 50 levels or 1000000 characters once its aliases are replaced"
        )
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("text", "path", "issue"),
    [
        ("a: 1\na: 2", ("a",), "given twice, first on line 1"),
        ("x:\n  y:\n    k: 1\n    l: 2\n    k: 3", ("x", "y", "k"), "given twice, first on line 3"),
        ("x: [{k: 1, 'k': 2}]", ("x", 0, "k"), "given twice, first on line 1"),
        ("x: {a: &a {k: 1}}\ny:\n  <<: *a", ("y", "<<"), "merge keys are not supported; write the keys out"),
        ("a: !!python/name:os.system x", ("a",), "tags are not supported, found !!python/name:os.system"),
        ("a: !env HOME", ("a",), "tags are not supported, found !env"),
        ("a: !!str 5", ("a",), "tags are not supported, found !!str"),
        ("a: !!set {b, c}", ("a",), "tags are not supported, found !!set"),
        ("? [a, b]\n: 1", ("?",), "a key must be plain text"),
        ("a: .nan", ("a",), "a number must be finite, found .nan"),
        ("a: -.inf", ("a",), "a number must be finite, found -.inf"),
        ("a: 1e999", ("a",), "a number must be finite, found 1e999"),
        ("a: [1, " + "9" * 400 + "]", ("a", 1), "a number must be finite, found " + "9" * 400),
    ],
)
def test_issues_are_noted_where_they_stand(text: str, path: tuple[str | int, ...], issue: str) -> None:
    assert read_document(text, "t").issues == {path: issue}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,\nb", "t.yaml:2: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: b: c", "t.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\nb: *u", "t.yaml:2: not valid YAML: found undefined alias 'u'"),
        ("a: 1\n---\nb: 2", "t.yaml:2: not valid YAML: expected a single document in the stream"),
        ("a: 1\n\nb: x\x00", "t.yaml:3: not valid YAML: the character U+0000 is not allowed"),
        ("a: 'x", "t.yaml:1: not valid YAML: while scanning a quoted scalar, found unexpected end of stream"),
    ],
)
def test_syntax_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(SaelabError) as caught:
        read_document(text, "t.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_tabs_are_named() -> None:
    with pytest.raises(SaelabError) as caught:
        read_document("a:\n\tb: 3", "t.yaml")
    assert str(caught.value) == (
        "t.yaml:2: not valid YAML: while scanning for the next token, found character '\\t' that cannot start any"
        " token\n  fix: indent with spaces, not tabs"
    )


def test_an_empty_document_holds_nothing() -> None:
    assert read_document("", "t").data is None
    assert read_document("# only a comment\n", "t").data is None


_TRICKY = [
    "",
    " ",
    "<<",
    "~",
    "on",
    "1e-3",
    "1_000",
    "0x1F",
    ".nan",
    "null",
    "- a",
    "a: b",
    "#",
    "\ufeff",
    "\x85",
    "\u2028x",
    "=",
    "!x",
    "&a",
    "*a",
    "\t",
    "\n",
    "?",
]
_TEXT = st.sampled_from(_TRICKY) | st.text(max_size=12)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT
_DATA = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3))


@given(st.dictionaries(_TEXT, _DATA, max_size=4))
def test_what_is_written_is_read_back(data: dict[str, Any]) -> None:
    document = read_document(write_document(data), "t")
    assert document.issues == {}
    assert repr(document.data) == repr(data)


def test_shared_data_is_written_out_twice() -> None:
    shared = [1, {"k": 2}]
    text = write_document({"a": shared, "b": shared, "c": 1e-05})
    assert text == "a:\n- 1\n- k: 2\nb:\n- 1\n- k: 2\nc: 1.0e-05\n"
    assert math.isclose(read_document(text, "t").data["c"], 1e-5)
