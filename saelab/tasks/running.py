"""Concepts of tokens in running text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.tasks import draws
from saelab.tasks.base import Tokenizer
from saelab.tasks.concepts import Labelled, Text
from saelab.tasks.text_words import Word, words
from saelab.tasks.words.calendar import DATES

MAX_TOKENS = 400_000
"""Of the text, which words are looked for in."""
MIN_TRAIN, MIN_TEST = 4, 2
"""Examples without which a class is left out."""
MAX_ARTICLES = 8
TOKEN_KINDS = ("other", "name", "number", "date")


@dataclass(frozen=True)
class _Example:
    """One token. `group` is what may not be on both sides: the word."""

    label: int
    group: str
    context: int
    position: int
    document: int


def first_letter(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    """Which letter a word begins with, looked at where its first token is. Words of one letter are left out."""

    def look(word: Word) -> _Example | None:
        letter = word.text[0].lower()
        if len(word.text) < 2 or not word.text.isalpha() or letter not in ascii_lowercase:
            return None
        return _Example(ascii_lowercase.index(letter), word.text.casefold(), word.context, word.first, word.document)

    return _of_words(tuple(ascii_lowercase), look, tokenizer, text, n, seed)


def token_kind(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    """Dates (months, days, years), other numbers, names (capitalised inside a sentence) and other words, looked at
    where their last token is."""

    def look(word: Word) -> _Example | None:
        kind = _kind(word)
        if kind is None:
            return None
        label = TOKEN_KINDS.index(kind)
        return _Example(label, word.text.casefold(), word.context, word.last, word.document)

    return _of_words(TOKEN_KINDS, look, tokenizer, text, n, seed)


def _kind(word: Word) -> str | None:
    said = word.text
    if said in DATES or (said.isdecimal() and len(said) == 4 and "1000" <= said < "2100"):
        return "date"
    if said.isdecimal():
        return "number"
    if not said.isalpha() or len(said) < 2:
        return None
    if said.islower():
        return "other"
    return "name" if said[0].isupper() and not word.opens else None


def article(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    """Which of the longest documents a token is from. The class being the document, both sides know it: tests come
    from the last third of its contexts."""
    rng = draws.generator(seed)
    contexts = _contexts_of_documents(text)
    longest = sorted(contexts, key=lambda document: -len(contexts[document]))[:MAX_ARTICLES]
    usual = torch.isin(text.tokens, torch.tensor(sorted(set(tokenizer.all_special_ids))), invert=True)
    examples: list[tuple[_Example, bool]] = []
    for label, document in enumerate(longest):
        rows = contexts[document]
        for test, side in ((False, rows[: len(rows) * 2 // 3]), (True, rows[len(rows) * 2 // 3 :])):
            for context in side:
                late = usual[context, : text.length[context]].nonzero()[:, 0]
                examples += [
                    (_Example(label, f"{context} {p}", context, p, document), test)
                    for p in late[late >= int(text.length[context]) // 4].tolist()
                ]
    return _labelled(tuple(f"document {document}" for document in longest), examples, text, n, rng)


def _contexts_of_documents(text: Text) -> dict[int, list[int]]:
    """Contexts that hold one document alone, by it."""
    found: dict[int, list[int]] = {}
    for context, (documents, length) in enumerate(zip(text.documents, text.length.tolist(), strict=True)):
        if length >= 2 and len(documents[:length].unique()) == 1:
            found.setdefault(int(documents[0]), []).append(context)
    return {document: rows for document, rows in found.items() if len(rows) >= 3}


def _of_words(
    classes: tuple[str, ...],
    look: Callable[[Word], _Example | None],
    tokenizer: Tokenizer,
    text: Text,
    n: int,
    seed: int,
) -> Labelled:
    """Training and test examples have neither documents nor words in common; what would be on
    both sides is left out."""
    rng = draws.generator(seed)
    text = _part(text, rng)
    found = [example for word in words(tokenizer, text) if (example := look(word)) is not None]
    documents = _test_documents(text, rng)
    groups = _test_groups(found, rng)
    sides = [
        (example, example.group in groups)
        for example in found
        if (example.group in groups) == (example.document in documents)
    ]
    return _labelled(classes, sides, text, n, rng)


def _part(text: Text, rng: torch.Generator) -> Text:
    """No more contexts than hold `MAX_TOKENS`, drawn at random."""
    count = min(len(text.length), max(1, MAX_TOKENS // text.tokens.shape[1]))
    rows = torch.randperm(len(text.length), generator=rng)[:count].sort().values
    return Text(text.tokens[rows], text.documents[rows], text.length[rows])


def _test_documents(text: Text, rng: torch.Generator) -> set[int]:
    """Documents of about a third of all tokens, at least one, never the longest."""
    real = torch.arange(text.tokens.shape[1]) < text.length[:, None]
    documents, sizes = text.documents[real].unique(return_counts=True)
    order = torch.randperm(len(documents), generator=rng).tolist()
    chosen: set[int] = set()
    taken = 0
    for i in order:
        if i != int(sizes.argmax()) and (not chosen or taken + int(sizes[i]) <= 0.4 * int(sizes.sum())):
            chosen.add(int(documents[i]))
            taken += int(sizes[i])
    return chosen


def _test_groups(found: Sequence[_Example], rng: torch.Generator) -> set[str]:
    """A third of each class's words."""
    classes = {example.group: example.label for example in reversed(found)}
    chosen: set[str] = set()
    for label in sorted(set(classes.values())):
        known = sorted(group for group, of in classes.items() if of == label)
        chosen.update(known[i] for i in torch.randperm(len(known), generator=rng)[: (len(known) + 1) // 3].tolist())
    return chosen


def _labelled(
    classes: tuple[str, ...], examples: Sequence[tuple[_Example, bool]], text: Text, n: int, rng: torch.Generator
) -> Labelled:
    """A balanced sample, of the classes of which there are enough.

    Raises:
        SaelabError: fewer than two; with the numbers of each.
    """
    sizes = Counter((example.label, test) for example, test in examples)
    counts = [(sizes[label, False], sizes[label, True]) for label in range(len(classes))]
    kept = [label for label, (train, test) in enumerate(counts) if train >= MIN_TRAIN and test >= MIN_TEST]
    if len(kept) < 2:
        listed = ", ".join(f"{name} {train}/{test}" for name, (train, test) in zip(classes, counts, strict=True))
        raise SaelabError(
            f"the text gives fewer than two classes with {MIN_TRAIN} examples to learn from and {MIN_TEST} of other "
            f"words and documents to test: {listed or 'no document has three contexts of its own'}",
            fix="store more held-out text (activations.tokens, windows.heldout_frac)",
        )
    chosen: list[tuple[_Example, bool]] = []
    for test in (False, True):
        wanted = max(MIN_TEST if test else MIN_TRAIN, (n // 3 if test else n - n // 3) // len(kept))
        for label in kept:
            chosen += _varied([pair for pair in examples if pair[0].label == label and pair[1] == test], wanted, rng)
    rows, context = torch.tensor([example.context for example, _ in chosen]).unique(return_inverse=True)
    return Labelled(
        tuple(classes[label] for label in kept),
        text.tokens[rows].long(),
        context,
        position=_column([example.position for example, _ in chosen]),
        label=_column([kept.index(example.label) for example, _ in chosen]),
        test=torch.tensor([test for _, test in chosen]),
    )


def _varied(
    examples: Sequence[tuple[_Example, bool]], wanted: int, rng: torch.Generator
) -> list[tuple[_Example, bool]]:
    """At random, but no word comes again before every other has."""
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int]] = []
    for i in torch.randperm(len(examples), generator=rng).tolist():
        group = examples[i][0].group
        ranked.append((seen.get(group, 0), i))
        seen[group] = seen.get(group, 0) + 1
    ranked.sort(key=lambda pair: pair[0])
    return [examples[i] for _, i in ranked[:wanted]]


def _column(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
