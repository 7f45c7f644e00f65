"""Words in lines that spell their first letter."""

from __future__ import annotations

import pytest
import torch

from saelab.errors import SaelabError
from saelab.lm.model import ModelSpec, load_tokenizer
from saelab.tasks import Text
from saelab.tasks.spelled import SHOWN, spelled_letter
from saelab.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(ModelSpec(str(tiny_model(tmp_path_factory.mktemp("models") / "words", words=True))))


def of_width(width: int) -> Text:
    return Text(torch.zeros(1, width).long(), torch.zeros(1, width).long(), torch.tensor([width]))


@pytest.mark.parametrize("n", [26, 200, 100_000])
def test_words_begin_with_their_letter_and_are_on_one_side(tokenizer, n):
    found = spelled_letter(tokenizer, of_width(60), n, 0)
    said = [tokenizer.decode([int(t)]).strip() for t in found.tokens[found.context, found.position]]
    assert [word[0].lower() for word in said] == [found.classes[label] for label in found.label.tolist()]
    assert min(map(len, said)) >= 3
    assert len({word.casefold() for word in said}) == len(said)
    assert found.label.bincount(minlength=26).max() <= n // 26
    contexts = {side: set(found.context[found.test == side].tolist()) for side in (True, False)}
    assert not contexts[True] & contexts[False]
    if n > 200:
        assert found.test.double().mean() == pytest.approx(1 / 3, abs=0.05)


def test_each_word_stands_in_a_line_behind_others(tokenizer):
    found = spelled_letter(tokenizer, of_width(60), 300, 0)
    assert found.tokens.shape[1] <= 60
    for context, position, label in zip(
        found.context.tolist(), found.position.tolist(), found.label.tolist(), strict=True
    ):
        text = tokenizer.decode(found.tokens[context, 1:position])
        assert text.count("has the") >= SHOWN
        follows = tokenizer.decode(found.tokens[context, position + 1 : position + 4])
        assert follows.startswith("has the")
        assert 0 <= label < 26
    assert (found.tokens[:, 0] == tokenizer.bos_token_id).all()


def test_the_same_seed_gives_the_same_words(tokenizer):
    one, same, other = (spelled_letter(tokenizer, of_width(60), 300, seed) for seed in (0, 0, 1))
    assert torch.equal(one.tokens, same.tokens)
    assert not torch.equal(one.label, other.label)


def test_what_a_tokenizer_or_a_context_cannot_hold(tokenizer, tiny_model_dir):
    characters = load_tokenizer(ModelSpec(str(tiny_model_dir)))
    with pytest.raises(SaelabError, match="this tokenizer has no tokens that are whole words behind a space"):
        spelled_letter(characters, of_width(60), 100, 0)
    with pytest.raises(
        SaelabError, match=r"a context of 12 tokens has room for 1 lines .* 3 are needed\n.*store longer"
    ):
        spelled_letter(tokenizer, of_width(12), 100, 0)
