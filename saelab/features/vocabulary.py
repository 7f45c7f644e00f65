"""The text of every token id, as it stands inside a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """By id. A token that is a part of a character is given in the tokenizer's own spelling."""
    n = max(tokenizer.get_vocab().values()) + 1
    pieces = tokenizer.convert_ids_to_tokens(list(range(n)))
    # Decoded behind another token: some tokenizers drop the space that a text would begin with.
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    before = str(tokenizer.decode(anchor, clean_up_tokenization_spaces=False))
    behind = tokenizer.batch_decode([[*anchor, i] for i in range(n)], clean_up_tokenization_spaces=False)
    texts = [text[len(before) :] if text.startswith(before) else text for text in behind]
    return [
        str(piece or "") if "\ufffd" in text or not text else text for text, piece in zip(texts, pieces, strict=True)
    ]
