"""Words of running text, found again in its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from saelab.lm.vocabulary import texts
from saelab.tasks.base import Tokenizer
from saelab.tasks.concepts import Text

_ENDS = frozenset(".!?…:;\"'“”‘’")


@dataclass(frozen=True)
class Word:
    """A run of letters and digits behind a space, whole inside its context.

    Attributes:
        first, last: positions of its tokens.
        opens: it begins a line, a sentence or a quotation, so that a capital means nothing.
    """

    text: str
    context: int
    first: int
    last: int
    document: int
    opens: bool


def words(tokenizer: Tokenizer, text: Text) -> Iterator[Word]:
    """Contexts in order. A word is never a context's first token (which may be the rest of another)."""
    said = _spelled(tokenizer, text)
    for context, (ids, documents, length) in enumerate(
        zip(text.tokens.tolist(), text.documents.tolist(), text.length.tolist(), strict=True)
    ):
        pieces = [said[i] for i in ids[:length]]
        for first in range(1, length):
            if _begins(pieces, first):
                found, last = _run(pieces, documents, first)
                if last + 1 < length:  # else the context may have cut it
                    yield Word(found, context, first, last, documents[first], _opens(pieces, first))


def _spelled(tokenizer: Tokenizer, text: Text) -> dict[int, str]:
    """Of each token. Special ones say nothing."""
    unique = torch.unique(text.tokens).tolist()
    special = set(tokenizer.all_special_ids)
    return {i: "" if i in special else said for i, said in zip(unique, texts(tokenizer, unique), strict=True)}


def _begins(pieces: list[str], position: int) -> bool:
    piece, before = pieces[position], pieces[position - 1]
    spaced = piece[:1].isspace() or before[-1:].isspace()
    return spaced and piece.lstrip()[:1].isalnum()


def _run(pieces: list[str], documents: list[int], first: int) -> tuple[str, int]:
    """The word and the position of its last token."""
    found, last = _letters(pieces[first].lstrip()), first
    whole = found == pieces[first].lstrip()
    while (
        whole and last + 1 < len(pieces) and documents[last + 1] == documents[first] and pieces[last + 1][:1].isalnum()
    ):
        last += 1
        more = _letters(pieces[last])
        whole = more == pieces[last]
        found += more
    return found, last


def _letters(piece: str) -> str:
    return next((piece[:i] for i, character in enumerate(piece) if not character.isalnum()), piece)


def _opens(pieces: list[str], position: int) -> bool:
    piece = pieces[position]
    space = piece[: len(piece) - len(piece.lstrip())]
    for before in reversed(pieces[:position]):
        said = before.rstrip()
        space += before[len(said) :]
        if said or not before:  # something said, or a BOS
            return "\n" in space or said[-1:] in _ENDS or not said
    return True
