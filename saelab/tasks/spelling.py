"""Words and sentences as tokens, for any tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.lm.windows import WindowSpec, bos_token
from saelab.tasks.base import Tokenizer


def ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Of each text, with nothing added."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []  # type: ignore[return-value]


def start(tokenizer: Tokenizer) -> list[int]:
    """What every context begins with: the token that windows of text begin with, or nothing where there is none."""
    return [bos] if (bos := _bos(tokenizer)) is not None else []


def _bos(tokenizer: Tokenizer) -> int | None:
    has_one = tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None
    return bos_token(tokenizer, WindowSpec(prepend_bos=has_one))


def behind(tokenizer: Tokenizer, text: str, continuations: Sequence[str]) -> list[list[int] | None]:
    """What each continuation adds to a text's tokens; None where the two melt together."""
    before = ids(tokenizer, [text])[0]
    whole = ids(tokenizer, [text + more for more in continuations])
    return [found[len(before) :] if found[: len(before)] == before else None for found in whole]


def single_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> dict[str, int]:
    """The words that are one token each inside a sentence, with it. A token that does not say the word (an unknown
    one) is none."""
    found = behind(tokenizer, "a", [f" {word}" for word in words])
    single = {word: more[0] for word, more in zip(words, found, strict=True) if more is not None and len(more) == 1}
    return {word: token for word, token in single.items() if _says(tokenizer, token) == word.casefold()}


def _says(tokenizer: Tokenizer, token: int) -> str:
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False)).strip().casefold()


def single_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs both words of which are one token each."""
    known = single_tokens(tokenizer, [word for pair in pairs for word in pair])
    return [pair for pair in pairs if pair[0] in known and pair[1] in known]


def check_enough(what: str, found: int, of: int, at_least: int) -> None:
    """Raise where too few words are left.

    Raises:
        SaelabError: with both numbers.
    """
    if found < at_least:
        raise SaelabError(
            f"only {found} of {of} {what} are single tokens of this tokenizer, and {at_least} are needed",
            fix="take another task, or a model with a larger vocabulary",
        )


def sentences(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Texts as `[text, position]` tokens behind a BOS, padded on the right, and `[text]` lengths."""
    first = start(tokenizer)
    rows = [first + found for found in ids(tokenizer, texts)]
    length = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(length.max())), (first or [0])[0])
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = torch.tensor(found)
    return tokens, length
