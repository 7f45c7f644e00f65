"""The text of token ids, as it stands inside a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Of every id, by id."""
    return texts(tokenizer, range(max(tokenizer.get_vocab().values()) + 1))


def texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Of each id. A token that is a part of a character is given in the tokenizer's own spelling."""
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    behind = _behind(tokenizer, [[i] for i in ids])
    return [
        str(piece or "") if "\ufffd" in text or not text else text for text, piece in zip(behind, pieces, strict=True)
    ]


def running(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Of several in a row."""
    return _behind(tokenizer, [list(ids)])[0]


def _behind(tokenizer: PreTrainedTokenizerBase, stretches: list[list[int]]) -> list[str]:
    """Decoded behind another token: some tokenizers drop the space that a text would begin with."""
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    before = str(tokenizer.decode(anchor, clean_up_tokenization_spaces=False))
    found = tokenizer.batch_decode([[*anchor, *ids] for ids in stretches], clean_up_tokenization_spaces=False)
    return [text[len(before) :] if text.startswith(before) else text for text in found]
