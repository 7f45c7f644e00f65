"""A tokenizer's own words, in lines that say which letter each begins with."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase

import torch

from saelab.errors import SaelabError
from saelab.lm.vocabulary import vocabulary
from saelab.tasks import draws
from saelab.tasks.base import Tokenizer
from saelab.tasks.concepts import Labelled, Text
from saelab.tasks.spelling import behind, start

MIN_LETTERS = 3
"""Of a word."""
SHOWN = 2
"""Lines at the beginning of a context that show what it is about, and are not looked at."""
_SAYS = " has the first letter: {}\n"


def spelled_letter(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    """Which letter a word begins with, looked at where it stands in lines such as "tree has the first letter: T".

    Words are tokens that say a space and three or more letters of a to z; the letters are drawn evenly as far as
    there are words, and a third of each letter's are for testing. A context, as long as the text's, holds words of
    one side, and each word but the first `SHOWN` is looked at.

    Source: the prompt of SAEBench's absorption (arXiv 2503.09532); there each word has a context of its own, behind
    ten lines of others.

    Raises:
        SaelabError: there are no such words, or the lines are too long for a context.
    """
    rng = draws.generator(seed)
    known, says = _words(tokenizer), _lines(tokenizer)
    first, width = start(tokenizer), text.tokens.shape[1]
    lines = (width - len(first)) // (1 + max(map(len, says.values())))
    if lines <= SHOWN:
        raise SaelabError(
            f"a context of {width} tokens has room for {lines} lines that spell a word, and {SHOWN + 1} are needed",
            fix="store longer contexts (windows.context_length)",
        )
    sides = _sides(known, n, rng)
    rows: list[tuple[list[tuple[int, str]], bool]] = []
    for test, words in ((False, sides[0]), (True, sides[1])):
        step = lines - SHOWN
        for at in range(0, len(words), step):
            shown = [words[i] for i in torch.randint(len(words), (SHOWN,), generator=rng).tolist()]
            rows.append(([*shown, *words[at : at + step]], test))
    return _labelled(first, says, rows)


def _lines(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """By letter: what follows a word in its line."""
    found = behind(tokenizer, "a", [_SAYS.format(letter) for letter in ascii_uppercase])
    return {letter: line or [] for letter, line in zip(ascii_lowercase, found, strict=True)}


def _words(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """By letter: tokens, one a word whatever its capitals, the lower one first."""
    known: dict[str, int] = {}
    special = set(tokenizer.all_special_ids)
    for i, said in sorted(enumerate(vocabulary(tokenizer)), key=lambda pair: pair[1].istitle()):
        word = said[1:]
        if said[:1] == " " and len(word) >= MIN_LETTERS and word.isascii() and word.isalpha() and i not in special:
            known.setdefault(word.casefold(), i)
    found: dict[str, list[int]] = {letter: [] for letter in ascii_lowercase}
    for word, i in sorted(known.items()):
        found[word[0]].append(i)
    if not known:
        raise SaelabError("this tokenizer has no tokens that are whole words behind a space")
    return found


def _sides(words: dict[str, list[int]], n: int, rng: torch.Generator) -> tuple[list[tuple[int, str]], ...]:
    """Training and test words, token and letter, in random order."""
    sides: tuple[list[tuple[int, str]], list[tuple[int, str]]] = ([], [])
    for letter, tokens in words.items():
        drawn = [tokens[i] for i in torch.randperm(len(tokens), generator=rng)[: n // len(words)].tolist()]
        tests = len(drawn) // 3
        sides[1].extend((token, letter) for token in drawn[:tests])
        sides[0].extend((token, letter) for token in drawn[tests:])
    return tuple([side[i] for i in torch.randperm(len(side), generator=rng).tolist()] for side in sides)


def _labelled(
    first: list[int], says: dict[str, list[int]], rows: Sequence[tuple[list[tuple[int, str]], bool]]
) -> Labelled:
    contexts: list[list[int]] = []
    examples: list[tuple[int, int, int, bool]] = []
    for words, test in rows:
        tokens = list(first)
        for at, (token, letter) in enumerate(words):
            if at >= SHOWN:
                examples.append((len(contexts), len(tokens), ascii_lowercase.index(letter), test))
            tokens += [token, *says[letter]]
        contexts.append(tokens)
    padded = torch.full((len(contexts), max(map(len, contexts))), (first or [0])[0])
    for row, tokens in zip(padded, contexts, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    context, position, label, test = torch.tensor(examples).T
    return Labelled(tuple(ascii_lowercase), padded, context, position, label, test.bool())
