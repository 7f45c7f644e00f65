"""The text of token ids, as it stands inside a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Of every id, by id."""
    return texts(tokenizer, range(max(tokenizer.get_vocab().values()) + 1))


def texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Of each id. Bytes that are a part of a character only are given as such, like \\xce."""
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    behind = _behind(tokenizer, [[i] for i in ids])
    return [
        _bytes(str(piece or "")) if "\ufffd" in text or not text else text
        for text, piece in zip(behind, pieces, strict=True)
    ]


def running(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Of several in a row."""
    return _behind(tokenizer, [list(ids)])[0]


def _behind(tokenizer: PreTrainedTokenizerBase, stretches: list[list[int]]) -> list[str]:
    """Decoded behind another token: some tokenizers drop the space that a text would begin with."""
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    before = str(tokenizer.decode(anchor, clean_up_tokenization_spaces=False))
    if not stretches:  # of which transformers makes one empty text
        return []
    found = tokenizer.batch_decode([[*anchor, *ids] for ids in stretches], clean_up_tokenization_spaces=False)
    return [text[len(before) :] if text.startswith(before) else text for text in found]


def _bytes(piece: str) -> str:
    """A byte-level tokenizer's spelling with its bytes made plain; any other piece as it is."""
    spelled = _spelling()
    if not all(character in spelled for character in piece):
        return piece
    return bytes(spelled[character] for character in piece).decode("utf-8", "backslashreplace")


@cache
def _spelling() -> dict[str, int]:
    """The byte behind each character of byte-level vocabularies (GPT-2's): printable ones stand for themselves, the
    others for those from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(0x100) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
