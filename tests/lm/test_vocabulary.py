"""Tokens are spelled as they stand inside a sentence."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from saelab.lm.vocabulary import running, texts, vocabulary


def byte_level() -> Any:
    """One token a byte, and the Greek alpha with a space before it in two pieces."""
    pieces = ["<bos>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠÎ"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [("Ġ", "Î")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>")


def test_bytes_of_a_character_are_shown_as_bytes():
    tokenizer = byte_level()
    ids = tokenizer("a α")["input_ids"]
    assert texts(tokenizer, ids) == ["a", " \\xce", "\\xb1"]
    assert running(tokenizer, ids) == "a α"


def test_every_token_has_a_text():
    tokenizer = byte_level()
    spelled = vocabulary(tokenizer)
    assert len(spelled) == 258
    assert all(spelled)
    assert spelled[tokenizer.convert_tokens_to_ids("Ġ")] == " "
    assert spelled[0] == "<bos>"
