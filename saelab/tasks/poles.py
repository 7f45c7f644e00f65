"""Concepts of words that end a sentence: the word is looked at, and nothing before it says which it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import torch

from saelab.tasks import draws
from saelab.tasks.base import Tokenizer
from saelab.tasks.concepts import Labelled, Text
from saelab.tasks.spelling import check_enough, sentences, single_pairs
from saelab.tasks.words import frames
from saelab.tasks.words.capitals import CAPITALS
from saelab.tasks.words.nouns import NOUNS
from saelab.tasks.words.opposites import FEELINGS
from saelab.tasks.words.people import FAMILY, NAMES

Pairs = Sequence[tuple[str, str]]
Frames = tuple[Sequence[str], Sequence[str]]
"""Of training and of test, each with a `{word}` at its end."""
T = TypeVar("T")

MIN_PAIRS = 6


def gender(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    """Names, and words for relatives; women's are the positive class."""
    return _poles(("male", "female"), _people(tokenizer), frames.PEOPLE, tokenizer, n, seed)


def number(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    return _poles(("singular", "plural"), _known(tokenizer, NOUNS, "nouns"), frames.THINGS, tokenizer, n, seed)


def sentiment(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    feelings = _known(tokenizer, FEELINGS, "adjectives")
    return _poles(("negative", "positive"), feelings, frames.JUDGEMENTS, tokenizer, n, seed)


def capital_country(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    """Two kinds of places, no poles."""
    places = _known(tokenizer, CAPITALS, "countries and capitals")
    return _poles(("country", "capital"), places, frames.TRAVELS, tokenizer, n, seed, bidirectional=False)


def gender_topic(tokenizer: Tokenizer, text: Text, n: int, seed: int) -> Labelled:
    """A name's gender, and (`others["topic"]`) what the sentence before it is about; independent of each other."""
    topics = {"music": frames.MUSIC, "sport": frames.SPORT}
    return _examples(("male", "female"), _known(tokenizer, NAMES, "names"), topics, tokenizer, n, seed)


def _people(tokenizer: Tokenizer) -> Pairs:
    relatives = [(f"the {man}", f"the {woman}") for man, woman in single_pairs(tokenizer, FAMILY)]
    return [*_known(tokenizer, NAMES, "names"), *relatives]


def _known(tokenizer: Tokenizer, pairs: Pairs, what: str) -> Pairs:
    known = single_pairs(tokenizer, pairs)
    check_enough(f"pairs of {what}", len(known), len(pairs), MIN_PAIRS)
    return known


def _poles(
    classes: tuple[str, str],
    pairs: Pairs,
    sayings: Frames,
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    bidirectional: bool = True,
) -> Labelled:
    return _examples(classes, pairs, {"": sayings}, tokenizer, n, seed, bidirectional=bidirectional)


@dataclass(frozen=True)
class _Example:
    text: str
    label: int
    topic: int
    test: bool


def _examples(
    classes: tuple[str, str],
    pairs: Pairs,
    topics: Mapping[str, Frames],
    tokenizer: Tokenizer,
    n: int,
    seed: int,
    bidirectional: bool = False,
) -> Labelled:
    """All cells of class and topic are of equal size; a third of all is for testing, with frames and pairs
    of its own."""
    rng = draws.generator(seed)
    rows: list[_Example] = []
    for test, (topic, sayings), label in product((False, True), enumerate(topics.values()), (0, 1)):
        words = [pair[label] for i, pair in enumerate(pairs) if (i % 3 == 2) == test]
        options = [frame.format(word=word) for frame, word in product(sayings[test], words)]
        wanted = max(1, (n // 3 if test else n - n // 3) // (2 * len(topics)))
        rows += [_Example(sentence, label, topic, test) for sentence in _sample(options, wanted, rng)]
    tokens, length = sentences(tokenizer, [row.text for row in rows])
    topic = (tuple(topics), torch.tensor([row.topic for row in rows]))
    return Labelled(
        classes,
        tokens,
        context=torch.arange(len(rows)),
        position=length - 1,
        label=torch.tensor([row.label for row in rows]),
        test=torch.tensor([row.test for row in rows]),
        others={"topic": topic} if len(topics) > 1 else {},
        bidirectional=bidirectional,
    )


def _sample(options: Sequence[T], wanted: int, rng: torch.Generator) -> list[T]:
    return [options[i] for i in torch.randperm(len(options), generator=rng)[:wanted].tolist()]
