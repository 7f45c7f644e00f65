"""Every task, over tokenizers of several kinds."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from saelab.errors import SaelabError
from saelab.lm.model import ModelSpec, load
from saelab.tasks import TASKS, answer, check_competence
from saelab.testing.tiny import tiny_model

CORPUS_REPEATS = 3


def _byte_level(words: list[str]) -> PreTrainedTokenizerFast:
    """As GPT-2's: a space belongs to the word behind it, and years are pairs of digits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    years = [f" 17{year:02d}" for year in range(100)] + [" 17"] * 500
    trainer = BpeTrainer(
        vocab_size=20_000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r" 17|\d\d"), "isolated"), tokenizer.pre_tokenizer])
    tokenizer.pre_tokenizer = split  # type: ignore[assignment]
    texts = [f"a {word} {word}," for word in words] + years
    tokenizer.train_from_iterator(texts * CORPUS_REPEATS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def _sentencepiece(words: list[str], bos: bool) -> PreTrainedTokenizerFast:
    """As Llama's: spaces are a letter, one is put before every text, digits are alone."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()  # type: ignore[assignment]
    special = ["<unk>", "<s>"]
    trainer = BpeTrainer(vocab_size=20_000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([f"a {word} {word}, 0123456789." for word in words] * CORPUS_REPEATS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>" if bos else None)


@pytest.fixture(scope="module")
def word_lm(tmp_path_factory):
    directory = tiny_model(tmp_path_factory.mktemp("models") / "words", words=True)
    return load(ModelSpec(str(directory), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def tokenizers(word_lm):
    words = sorted(word for word in word_lm.tokenizer.get_vocab() if word.isalpha())
    return {
        "words": word_lm.tokenizer,
        "bytes": _byte_level(words),
        "pieces": _sentencepiece(words, bos=True),
        "no-bos": _sentencepiece(words, bos=False),
    }


@pytest.fixture(params=["words", "bytes", "pieces", "no-bos"])
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


@pytest.fixture(params=list(TASKS))
def task(request, tokenizer):
    return TASKS[request.param](tokenizer)


def said(tokenizer, prompts):
    """Prompts as texts, without what a BOS and padding say."""
    rows = zip(prompts.tokens, prompts.end.tolist(), strict=True)
    texts = [tokenizer.decode(row[: end + 1], skip_special_tokens=True) for row, end in rows]
    return [" ".join(text.split()) for text in texts]


def test_values_are_even_and_draws_repeat(task):
    for split in ("train", "test"):
        choices = task.draw(101, split, seed=3)
        for name, values in task.attributes.items():
            counts = choices[name].bincount(minlength=len(values))
            assert counts.max() - counts.min() <= 1
        again, other = task.draw(101, split, seed=3), task.draw(101, split, seed=4)
        assert all(torch.equal(choices[name], again[name]) for name in choices)
        assert any(not torch.equal(choices[name], other[name]) for name in choices)


def test_fillers_and_templates_of_the_splits_are_apart(task):
    train, test = task.draw(400, "train", 0), task.draw(400, "test", 0)
    fillers = set(train) - set(task.attributes) - {"unit"}  # a digit of the attribute's own number
    assert "template" in fillers
    assert len(fillers) >= 2
    for name in fillers:
        assert not set(train[name].tolist()) & set(test[name].tolist())


def test_length_depends_on_the_template_alone(task):
    choices = task.draw(120, "train", 0)
    prompts = task.prompts(choices)
    for other in (task.corrupted(choices, 1), *(task.changed(choices, name, 1) for name in task.attributes)):
        assert torch.equal(task.prompts(other).end, prompts.end)
        assert torch.equal(other["template"], choices["template"])


def test_every_prompt_has_right_and_wrong_answers(task):
    prompts = task.prompts(task.draw(100, "test", 0))
    assert prompts.right.any(1).all()
    assert prompts.wrong.any(1).all()
    assert not (prompts.right & prompts.wrong).any()
    assert prompts.tokens.dtype == prompts.end.dtype == prompts.answers.dtype == torch.int64
    assert len(prompts.answers.unique()) == len(prompts.answers)


def test_a_change_changes_one_attribute_and_the_text(task, tokenizer):
    choices = task.draw(60, "train", 0)
    before = said(tokenizer, task.prompts(choices))
    for name in task.attributes:
        changed = task.changed(choices, name, 5)
        assert (changed[name] != choices[name]).all()
        assert all(torch.equal(changed[other], choices[other]) for other in choices if other != name)
        assert all(a != b for a, b in zip(before, said(tokenizer, task.prompts(changed)), strict=True))


def test_corrupted_prompts_say_something_else_and_keep_the_question(task, tokenizer):
    choices = task.draw(60, "train", 0)
    clean, corrupted = task.prompts(choices), task.prompts(task.corrupted(choices, 2))
    assert torch.equal(clean.right, corrupted.right)
    assert torch.equal(clean.wrong, corrupted.wrong)
    assert all(a != b for a, b in zip(said(tokenizer, clean), said(tokenizer, corrupted), strict=True))


def test_contexts_begin_as_windows_do(task, tokenizer):
    tokens = task.prompts(task.draw(10, "train", 0)).tokens
    first = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    if first:
        assert set(tokens[:, 0].tolist()) <= first
    else:
        assert (tokens[:, 0] > 0).all()


def test_an_unknown_attribute_is_refused(task):
    choices = task.draw(4, "train", 0)
    with pytest.raises(SaelabError, match="unknown attribute 'gnder'"):
        task.changed(choices, "gnder", 0)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_tokenizer_of_characters_is_refused_with_the_numbers(name, lm):
    with pytest.raises(SaelabError, match=r"\d+ of \d+ .*(are single tokens|are '17')") as caught:
        TASKS[name](lm.tokenizer)
    assert "take another task" in str(caught.value)


# Each task's own sense, where a token is a word.


def test_indirect_objects(tokenizers):
    tokenizer = tokenizers["words"]
    task = TASKS["ioi"](tokenizer)
    choices = task.draw(80, "train", 0)
    prompts = task.prompts(choices)
    names = task.attributes["IO"]
    for row, text in enumerate(said(tokenizer, prompts)):
        io, s = names[choices["IO"][row]], names[choices["S"][row]]
        assert (text.split().count(io), text.split().count(s)) == (1, 2)
        assert (text.split().index(io) < text.split().index(s)) == (choices["position"][row] == 0)
        assert tokenizer.decode(prompts.answers[prompts.right[row]]) == io
        assert tokenizer.decode(prompts.answers[prompts.wrong[row]]) == s
    last = prompts.tokens[torch.arange(80), prompts.end]
    assert tokenizer.decode(last.unique()) == "to"
    for text, row in zip(said(tokenizer, task.prompts(task.corrupted(choices, 1))), range(80), strict=True):
        found = [word for word in text.split() if word in names]
        asked = {names[choices["IO"][row]], names[choices["S"][row]]}
        assert len(found) == len(set(found)) == 3
        assert not asked & set(found)


def test_one_name_for_both_persons_is_refused_and_never_drawn(tokenizers):
    task = TASKS["ioi"](tokenizers["words"])
    choices = task.draw(500, "train", 0)
    for name in ("IO", "S"):
        changed = task.changed(choices, name, 9)
        assert (changed["IO"] != changed["S"]).all()
    with pytest.raises(SaelabError, match="the same name in 500 of 500 prompts") as caught:
        task.prompts({**choices, "IO": choices["S"]})
    assert "`changed`" in str(caught.value)


def test_digits_are_asked_for_where_they_are_alone(tokenizers):
    task = TASKS["greater_than"](tokenizers["words"])
    choices = task.draw(80, "train", 0)
    prompts = task.prompts(choices)
    assert task.attributes["decade"] == tuple(f"17{tens}0s" for tens in range(1, 9))
    tens = choices["decade"] + 1
    assert torch.equal(prompts.right.sum(1), 9 - tens)
    assert torch.equal(prompts.wrong.sum(1), tens)
    text = said(tokenizers["words"], prompts)[0].split()
    begun = text.index("1")
    assert text[begun : begun + 4] == ["1", "7", str(int(tens[0])), str(int(choices["unit"][0]))]


def test_years_are_asked_for_where_they_are_pairs(tokenizers):
    tokenizer = tokenizers["bytes"]
    task = TASKS["greater_than"](tokenizer)
    prompts = task.prompts(task.draw(80, "train", 0))
    answers = [int(tokenizer.decode([token])) for token in prompts.answers.tolist()]
    assert len(answers) > 90
    for row, text in enumerate(said(tokenizer, prompts)):
        start = int(text.split("year 17")[1][:2])
        assert [answers[i] for i in prompts.right[row].nonzero()[:, 0]] == [y for y in answers if y > start]
        assert [answers[i] for i in prompts.wrong[row].nonzero()[:, 0]] == [y for y in answers if y <= start]


def test_verbs_agree_with_the_subject_not_with_the_noun_between(tokenizers):
    tokenizer = tokenizers["words"]
    task = TASKS["agreement"](tokenizer)
    choices = task.draw(40, "test", 0)
    prompts = task.prompts(choices)
    for row in range(40):
        right = tokenizer.decode(prompts.answers[prompts.right[row]]).split()
        assert right == (["are", "were", "have", "do"] if choices["number"][row] else ["is", "was", "has", "does"])
    assert (choices["subject"] != choices["other"]).all()


def test_answering(word_lm):
    task = TASKS["gender"](word_lm.tokenizer)
    prompts = task.prompts(task.draw(40, "train", 0))
    found = answer(word_lm, prompts)
    score = found.score(prompts, task.metric)
    expected = []
    for row in range(40):
        logits = word_lm.logits(prompts.tokens[row : row + 1, : prompts.end[row] + 1])[0, -1, prompts.answers]
        expected.append(logits[prompts.right[row]].mean() - logits[prompts.wrong[row]].mean())
    assert torch.allclose(score, torch.stack(expected), atol=1e-4)
    assert torch.equal(found.correct(prompts), score > 0)
    with pytest.raises(SaelabError, match="answers 40% of 'gender' rightly, below 80%"):
        check_competence("gender", 0.4, 0.8)
