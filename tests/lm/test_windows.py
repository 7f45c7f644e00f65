"""Text to contexts: nothing lost, nothing twice, documents on one side of the split."""

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.errors import SaelabError
from saelab.lm.corpus import Document
from saelab.lm.windows import SPLITS, Cursor, Split, Windows, WindowSpec, bos_token, split_of, windows


class Letters:
    """A tokenizer of one token per character."""

    bos_token_id: int | None = 0
    eos_token_id: int | None = 1

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(c) for c in text] for text in texts]}


def cut(texts, spec):
    documents = [Document(i, None, text) for i, text in enumerate(texts)]
    return list(windows(documents, Letters(), spec))  # type: ignore[arg-type]


texts = st.lists(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=40), max_size=40)


@given(texts, st.integers(2, 12))
@settings(deadline=None, max_examples=80)
def test_concat_keeps_every_token_once_and_in_order(texts, length):
    spec = WindowSpec(context_length=length)
    for split in ("train", "heldout"):
        mine = [(i, t) for i, t in enumerate(texts) if split_of(t, spec.heldout_frac) == split]
        expected = [(ord(c), i) for i, t in mine for c in t]
        found = []
        for window in cut(texts, spec):
            if window.split == split:
                assert len(window.tokens) == length
                assert window.tokens[0] == 0
                found += [(t, d) for t, d in zip(window.tokens, window.documents, strict=True) if t != 0]
        assert found == expected[: len(found)]
        assert len(expected) - len(found) < length


@given(texts, st.integers(2, 12))
@settings(deadline=None, max_examples=80)
def test_per_document_windows_hold_one_document_and_start_with_bos(texts, length):
    spec = WindowSpec(context_length=length, packing="per_document")
    seen: dict[int, str] = {}
    for window in cut(texts, spec):
        (document,) = set(window.documents.tolist())
        assert window.tokens[0] == 0
        assert 2 <= len(window.tokens) <= length
        seen[document] = seen.get(document, "") + "".join(map(chr, window.tokens[1:]))
    assert seen == dict(enumerate(texts))


def reader(texts, spec, splits: tuple[Split, ...] = SPLITS, start=Cursor(), tokenizer=None):  # noqa: B008
    """A reader of texts of which every second row is blank."""
    documents = [Document(i, None, text, row=2 * i) for i, text in enumerate(texts)]
    rest = [document for document in documents if document.row >= start.place.rows]
    return Windows(rest, tokenizer or Letters(), spec, splits=splits, start=start)  # type: ignore[arg-type]


def as_lists(windows):
    return [(window.split, window.tokens.tolist(), window.documents.tolist()) for window in windows]


@given(
    st.lists(st.text("abcdef", min_size=1, max_size=40), max_size=70),
    st.integers(2, 12),
    st.sampled_from(["concat", "per_document"]),
    st.sampled_from([SPLITS, ("train",)]),
    st.booleans(),
    st.integers(0, 300),
)
@settings(deadline=None, max_examples=150)
def test_a_reader_goes_on_where_another_was(texts, length, packing, splits, bos, taken):
    spec = WindowSpec(length, packing, prepend_bos=bos, heldout_frac=0.3)
    expected = as_lists(reader(texts, spec, splits))
    assert expected == [found for found in as_lists(reader(texts, spec)) if found[0] in splits]
    first = reader(texts, spec, splits)
    begun = list(islice(first, taken))
    saved = json.dumps(first.cursor().as_json())
    assert as_lists(first) == expected[len(begun) :]
    assert as_lists(reader(texts, spec, splits, Cursor.from_json(json.loads(saved)))) == expected[len(begun) :]


def test_what_is_passed_over_is_not_tokenised():
    class Remembering(Letters):
        def __call__(self, texts, **options):
            self.seen = getattr(self, "seen", "") + "".join(texts)
            return super().__call__(texts, **options)

    texts = [f"{chr(97 + i % 26)}" * 10 for i in range(200)]
    spec = WindowSpec(context_length=8, heldout_frac=0.3)
    first = reader(texts, spec, ("train",))
    for _ in range(100):
        next(first)
    cursor, tokenizer = first.cursor(), Remembering()
    list(reader(texts, spec, ("train",), cursor, tokenizer))
    later = [text for text in texts[cursor.place.documents :] if split_of(text, 0.3) == "train"]
    assert 50 < cursor.place.documents < 150
    assert tokenizer.seen == "".join(later)
    assert len(json.dumps(cursor.as_json())) < 300


def test_without_bos_contexts_are_plain_slices():
    spec = WindowSpec(context_length=4, prepend_bos=False, heldout_frac=1e-9)
    found = [w.tokens.tolist() for w in cut(["abcdefghij"], spec)]
    assert found == [[97, 98, 99, 100], [101, 102, 103, 104]]


def test_a_document_that_ends_on_a_cut_leaves_no_second_bos():
    spec = WindowSpec(context_length=3, heldout_frac=1e-9)
    assert [w.tokens.tolist() for w in cut(["ab", "cdef"], spec)] == [[0, 97, 98], [0, 99, 100], [0, 101, 102]]


def test_long_documents_are_cut_where_asked():
    spec = WindowSpec(context_length=4, packing="per_document", max_document_tokens=5, heldout_frac=1e-9)
    found = [w.tokens.tolist() for w in cut(["abcdefghij", "xy"], spec)]
    assert found == [[0, 97, 98, 99], [0, 100, 101], [0, 120, 121]]
    with pytest.raises(SaelabError, match="max_document_tokens: must be at least 1, found 0"):
        WindowSpec(max_document_tokens=0)


def test_a_document_is_on_one_side_whatever_its_place():
    assert {split_of(f"text {i}", 0.3) for i in range(40)} == {"train", "heldout"}
    assert all(split_of("same", 0.3) == split_of("same", 0.3) for _ in range(3))
    share = np.mean([split_of(f"text {i}", 0.3) == "heldout" for i in range(4000)])
    assert share == pytest.approx(0.3, abs=0.03)
    assert split_of("text 1", 0.2) == "heldout" or split_of("text 1", 0.1) == "train"


def test_bos_falls_back_to_eos_and_says_when_there_is_none():
    letters = Letters()
    letters.bos_token_id = None
    assert bos_token(letters, WindowSpec()) == 1  # type: ignore[arg-type]
    letters.eos_token_id = None
    with pytest.raises(SaelabError, match=r"windows.prepend_bos: this tokenizer has no BOS token"):
        bos_token(letters, WindowSpec())  # type: ignore[arg-type]
    assert bos_token(letters, WindowSpec(prepend_bos=False)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"context_length": 1}, "a context needs 2 tokens or more"), ({"heldout_frac": 1.0}, "must lie between 0 and 1")],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(SaelabError, match=message):
        WindowSpec(**settings)


def test_a_context_has_two_tokens_or_more():
    texts = ["a", "bcde", "f", "ghi", "jk"]
    for bos in (False, True):
        found = cut(texts, WindowSpec(context_length=3, packing="per_document", prepend_bos=bos))
        assert min(len(w.tokens) for w in found) == 2
        kept = {chr(token) for w in found for token in w.tokens if token}
        assert kept == set("abcdefghijk" if bos else "bcdghijk")  # what is left over is one token alone


def test_the_documents_of_a_split_that_is_left_out_do_not_come_to_the_tokenizer(monkeypatch):
    from saelab.lm import windows as module

    tokenised: list[str] = []

    class Watched(Letters):
        def __call__(self, texts, **options):
            tokenised.extend(texts)
            return super().__call__(texts, **options)

    monkeypatch.setattr(module, "_BATCH_DOCUMENTS", 1)
    spec = WindowSpec(context_length=3, heldout_frac=0.3, packing="per_document")
    documents = [Document(n, None, f"{n:03d}abcd") for n in range(60)]
    heldout = [d for d in documents if split_of(d.text, 0.3) == "heldout"]
    everything = list(windows(documents, Letters(), spec))  # type: ignore[arg-type]
    source = windows(documents, Watched(), spec)  # type: ignore[arg-type]
    first = next(window for window in source if window.split == "train")
    source.leave_out("train")
    seen, rest = len(tokenised), list(source)
    later = [d for d in heldout if d.index > first.documents[0]]
    assert len(later) > 5
    assert tokenised[seen:] == [d.text for d in later]
    expected = [w for w in everything if w.documents[0] in {d.index for d in later}]
    assert [w.tokens.tolist() for w in rest if w.split == "heldout"] == [w.tokens.tolist() for w in expected]
    assert {w.documents[0] for w in rest if w.split == "train"} <= {first.documents[0]}


@pytest.mark.parametrize("text", ["word " * 400, "x" * 2000, "", "y" * 999 + " z"])
def test_a_long_document_is_tokenised_piece_by_piece_and_nothing_is_lost(monkeypatch, text):
    from saelab.lm import windows as module

    class Watched(Letters):
        longest = 0

        def __call__(self, texts, **options):
            self.longest = max(self.longest, sum(map(len, texts)))
            return super().__call__(texts, **options)

    documents = [Document(i, None, part) for i, part in enumerate(["short", text, "after"] * 20)]
    spec = WindowSpec(context_length=7)
    whole = list(windows(documents, Letters(), spec))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 100)
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", 100)
    tokenizer = Watched()
    for one, other in zip(windows(documents, tokenizer, spec), whole, strict=True):  # type: ignore[arg-type]
        assert (one.split, one.tokens.tolist()) == (other.split, other.tokens.tolist())
        assert one.documents.tolist() == other.documents.tolist()
    assert tokenizer.longest <= 2 * 100
