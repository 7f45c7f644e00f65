"""Concepts: what their labels say, what is held out from what, and what is refused."""

from __future__ import annotations

import pytest
import torch

from saelab.errors import SaelabError
from saelab.lm.model import ModelSpec, load_tokenizer
from saelab.tasks import CONCEPTS, Labelled, Text
from saelab.tasks.spelling import sentences
from saelab.tasks.text_words import words
from saelab.testing.tiny import tiny_model

POLES = ("gender", "number", "sentiment", "capital_country")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(ModelSpec(str(tiny_model(tmp_path_factory.mktemp("models") / "words", words=True))))


@pytest.fixture(scope="module")
def characters(tiny_model_dir):
    return load_tokenizer(ModelSpec(str(tiny_model_dir)))


def text_of(tokenizer, documents: list[list[str]]) -> Text:
    """A list of contexts for each document."""
    tokens, length = sentences(tokenizer, [context for document in documents for context in document])
    numbers = torch.tensor([i for i, document in enumerate(documents) for _ in document])
    return Text(tokens.int(), numbers[:, None].expand_as(tokens), length)


NOTHING = Text(torch.zeros(0, 4).long(), torch.zeros(0, 4).long(), torch.zeros(0).long())


def looked_at(tokenizer, found: Labelled) -> list[str]:
    return [tokenizer.decode([int(t)]).strip() for t in found.tokens[found.context, found.position]]


def before(tokenizer, found: Labelled) -> list[str]:
    rows = zip(found.tokens[found.context], found.position.tolist(), strict=True)
    return [tokenizer.decode(row[:p], skip_special_tokens=True) for row, p in rows]


@pytest.mark.parametrize("name", POLES)
def test_poles_are_even_and_neither_words_nor_frames_are_on_both_sides(name, tokenizer):
    found = CONCEPTS[name](tokenizer, NOTHING, 150, 0)
    assert found.bidirectional == (name != "capital_country")
    for test in (False, True):
        counts = found.label[found.test == test].bincount(minlength=2)
        assert counts[0] == counts[1] > 10
    side = found.test.tolist()
    for said in (looked_at(tokenizer, found), before(tokenizer, found)):
        train = {text for text, test in zip(said, side, strict=True) if not test}
        assert not train & {text for text, test in zip(said, side, strict=True) if test}


@pytest.mark.parametrize("name", ["number", "sentiment", "capital_country"])
def test_what_stands_before_a_pole_says_nothing_about_it(name, tokenizer):
    found = CONCEPTS[name](tokenizer, NOTHING, 10_000, 0)
    said, labels = before(tokenizer, found), found.label.tolist()
    for frame in set(said):
        of = [label for text, label in zip(said, labels, strict=True) if text == frame]
        assert of.count(0) == of.count(1)


def test_poles_mean_what_they_say(tokenizer):
    for name, negative, positive in [
        ("gender", "John", "Mary"),
        ("number", "dog", "dogs"),
        ("sentiment", "bad", "good"),
    ]:
        found = CONCEPTS[name](tokenizer, NOTHING, 10_000, 0)
        labels = dict(zip(looked_at(tokenizer, found), found.label.tolist(), strict=True))
        assert (labels[negative], labels[positive]) == (0, 1)


def test_gender_and_topic_are_independent(tokenizer):
    found = CONCEPTS["gender_topic"](tokenizer, NOTHING, 240, 0)
    topics, topic = found.others["topic"]
    assert topics == ("music", "sport")
    for test, wanted in ((False, 40), (True, 20)):
        cells = (2 * found.label + topic)[found.test == test].bincount(minlength=4)
        assert cells.tolist() == [wanted] * 4
    assert all(t == 0 for text, t in zip(before(tokenizer, found), topic.tolist(), strict=True) if "concert" in text)


def test_a_seed_draws_other_examples(tokenizer):
    first, again, other = (CONCEPTS["number"](tokenizer, NOTHING, 60, seed) for seed in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)


@pytest.mark.parametrize("name", [*POLES, "gender_topic"])
def test_poles_of_characters_are_refused_with_the_numbers(name, characters):
    with pytest.raises(SaelabError, match=r"only 0 of \d+ pairs of [a-z ]+ are single tokens"):
        CONCEPTS[name](characters, NOTHING, 100, 0)


def test_words_are_found_again_in_characters(characters):
    text = text_of(characters, [["ab cd-ef 1984. Gh\nIj kl", "mn op "]])
    found = [(word.text, word.first, word.last, word.context, word.opens) for word in words(characters, text)]
    # "ab" may be the end of a word, "ef" is behind no space, "kl" may go on in the next context.
    assert found == [
        ("cd", 4, 5, 0, False),
        ("1984", 10, 13, 0, False),
        ("Gh", 16, 17, 0, True),
        ("Ij", 19, 20, 0, True),
        ("op", 4, 5, 1, False),
    ]


def _letters(count: int) -> list[list[str]]:
    """Documents of words like "bxq": each letter many times, in words of its own."""
    rng = torch.Generator().manual_seed(0)

    def word(first: str) -> str:
        return first + "".join(chr(97 + int(i)) for i in torch.randint(26, (3,), generator=rng))

    return [[" ".join(word(first) for first in "abcz" * 5) + " end " for _ in range(4)] for _ in range(count)]


def test_first_letters(characters):
    text = text_of(characters, _letters(9))
    found = CONCEPTS["first_letter"](characters, text, 120, 0)
    assert {"a", "b", "c", "z"} <= set(found.classes)
    said = looked_at(characters, found)
    assert [found.classes[i] for i in found.label] == said
    whole = {(w.context, w.first): w.text for w in words(characters, Text(found.tokens, *_rest(found)))}
    spelled = [whole[c, p] for c, p in zip(found.context.tolist(), found.position.tolist(), strict=True)]
    train = {text for text, test in zip(spelled, found.test.tolist(), strict=True) if not test}
    assert not train & {text for text, test in zip(spelled, found.test.tolist(), strict=True) if test}
    assert not set(found.context[found.test].tolist()) & set(found.context[~found.test].tolist())


def _rest(found: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros_like(found.tokens), torch.full((len(found.tokens),), found.tokens.shape[1])


def test_kinds_of_tokens(characters):
    sentence = "in May {year} we saw Xa{a}b and {count} of the r{a}x on a Monday with him. Then "
    documents = [
        [sentence.format(year=1500 + 10 * i + j, a=chr(97 + i), count=7 + 10 * i + j) for j in range(4)]
        for i in range(9)
    ]
    text = text_of(characters, documents)
    found = CONCEPTS["token_kind"](characters, text, 200, 0)
    assert found.classes == ("other", "name", "number", "date")
    whole = {(w.context, w.last): w.text for w in words(characters, Text(found.tokens, *_rest(found)))}
    for context, position, label in zip(
        found.context.tolist(), found.position.tolist(), found.label.tolist(), strict=True
    ):
        said = whole[context, position]
        expected = (
            "date" if said in ("May", "Monday") or (said.isdigit() and int(said) > 1000)
            else "number" if said.isdigit() else "name" if said.startswith("X") else "other"
        )  # fmt: skip
        assert found.classes[label] == expected
        assert said != "Then"


def test_articles_are_tested_on_their_last_contexts(characters):
    text = text_of(
        characters, [[f"{name} says word number {i} here" for i in range(6)] for name in ("ann", "bob", "cat")]
    )
    found = CONCEPTS["article"](characters, text, 90, 0)
    assert found.classes == ("document 0", "document 1", "document 2")
    for row in range(len(found)):
        context = characters.decode(found.tokens[found.context[row]])
        assert ("ann", "bob", "cat")[found.label[row]] in context
        assert (int(context.split("number ")[1][0]) >= 4) == bool(found.test[row])


def test_too_little_text_is_refused_with_the_counts(characters):
    text = text_of(characters, [["one two three four ", "two three "], ["five six seven "]])
    with pytest.raises(SaelabError, match=r"fewer than two classes with 4 examples .* other \d/\d, name 0/0"):
        CONCEPTS["token_kind"](characters, text, 100, 0)
    with pytest.raises(SaelabError, match="no document has three contexts of its own"):
        CONCEPTS["article"](characters, text, 100, 0)
    with pytest.raises(SaelabError, match="fewer than two classes"):
        CONCEPTS["first_letter"](characters, NOTHING, 100, 0)
