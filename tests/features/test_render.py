"""Any text becomes HTML without markup of its own, and without anything that cannot be seen."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelab.features.render import highlighted, lines, number, text
from saelab.testing.markup import Elements

ANY = st.text(alphabet=st.characters(), max_size=60)


@given(ANY)
def test_text_is_text_whatever_it_holds(s: str) -> None:
    seen = Elements(text(s))
    assert seen.tags == []
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in seen.text)
    text(s).encode()


@pytest.mark.parametrize(
    ("s", "shown"),
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&quot;&#x27;"),
        ("  two before", "··two before"),
        ("a\nb\tc\r\0", "a↵b⇥c⟨U+000D⟩⟨U+0000⟩"),
        ("safe\u202etxt.exe", "safe⟨U+202E⟩txt.exe"),
        ("\u200b", "⟨U+200B⟩"),
        ("\u00a0", "⟨U+00A0⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("   ", "···"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_a_symbol(s: str, shown: str) -> None:
    assert text(s) == shown


def test_long_text_is_cut_and_says_so() -> None:
    assert text("x" * 10_001) == "x" * 10_000 + "… (10,001 characters)"
    assert text("x" * 10_000) == "x" * 10_000
    assert len(text(" " * 20_000)) < 10_100
    assert lines("a\n" * 9, limit=4) == "a<br>a… (18 characters)"


def test_a_note_keeps_its_lines() -> None:
    assert lines("one\n two\r\n<three>") == "one<br>·two<br>&lt;three&gt;"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12345, "0.123"), (-2.5, "−2.5"), (12345.6, "12,346"), (float("nan"), "–"), (float("inf"), "–"), (0.0, "0")],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_active_tokens_are_marked_with_their_value_as_text() -> None:
    page = highlighted(["The", " <i>", " end", "\n"], {1: 2.0, 2: -1.0}, scale=2.0, at=1)
    seen = Elements(page)
    assert seen.tags == ["p", "mark", "span", "mark", "span", "span"]
    assert seen.text == "The <i> (2)  −end (−1) ↵"
    assert ("title", "2") in seen.attributes
    assert ("title", "−1") in seen.attributes
    assert ("class", "sl-at") in seen.attributes
    assert ("class", "sl-negative") in seen.attributes


@given(st.lists(ANY, max_size=5), st.dictionaries(st.integers(0, 5), st.floats(), max_size=4), st.floats())
def test_a_context_is_marked_by_us_alone(tokens: list[str], values: dict[int, float], scale: float) -> None:
    seen = Elements(highlighted(tokens, values, scale=scale, at=0, around=2))
    assert set(seen.tags) <= {"p", "mark", "span"}
    assert {name for name, _ in seen.attributes} <= {"class", "dir", "style", "title", "aria-hidden"}


def test_a_window_around_a_token_shows_where_it_is_cut() -> None:
    tokens = [str(i) for i in range(9)]
    assert Elements(highlighted(tokens, {}, scale=1.0, at=4, around=1)).text == "… 345 …"
    assert Elements(highlighted(tokens, {}, scale=1.0, at=0, around=1)).text == "01 …"
    assert Elements(highlighted(tokens, {}, scale=1.0)).text == "012345678"
