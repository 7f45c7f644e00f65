"""Induction and docstrings: each task's own sense, where a token is a word."""

from __future__ import annotations

import pytest
import torch

from saelab.lm.model import ModelSpec, load_tokenizer
from saelab.tasks import TASKS
from saelab.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(ModelSpec(str(tiny_model(tmp_path_factory.mktemp("models") / "words", words=True))))


def texts(tokenizer, prompts):
    rows = zip(prompts.tokens, prompts.end.tolist(), strict=True)
    return [tokenizer.decode(row[: end + 1], skip_special_tokens=True).split() for row, end in rows]


def answer_of(tokenizer, prompts, row):
    return tokenizer.decode(prompts.answers[prompts.right[row]])


def test_what_is_repeated_goes_on_as_before(tokenizer):
    task = TASKS["induction"](tokenizer)
    choices = task.draw(60, "train", 0)
    prompts = task.prompts(choices)
    for row, text in enumerate(texts(tokenizer, prompts)):
        asked, said = text[-1], text[:-3]
        answer = answer_of(tokenizer, prompts, row)
        assert said[said.index(asked) + 1] == answer
        assert text.count(answer) == 1
        assert text[-3:] == said[said.index(answer) - 3 : said.index(answer)]
    at = prompts.marks["said"]
    assert torch.equal(prompts.tokens[torch.arange(60), at], prompts.answers[choices["answer"]])
    assert torch.equal(prompts.marks["before"], at - 1)


def test_corrupted_lists_never_said_what_is_repeated(tokenizer):
    task = TASKS["induction"](tokenizer)
    choices = task.draw(60, "test", 0)
    clean, corrupted = task.prompts(choices), task.prompts(task.corrupted(choices, 1))
    for row, (text, before) in enumerate(zip(texts(tokenizer, corrupted), texts(tokenizer, clean), strict=True)):
        assert text[-3:] == before[-3:]
        assert answer_of(tokenizer, clean, row) not in text
        assert all(text.count(word) == 1 for word in text[-3:])


def test_the_next_argument_is_asked_for(tokenizer):
    task = TASKS["docstring"](tokenizer)
    choices = task.draw(60, "train", 0)
    prompts = task.prompts(choices)
    for row, text in enumerate(texts(tokenizer, prompts)):
        defined = [text[i + 1] for i in range(text.index("self"), text.index(")")) if text[i] == ","]
        described = [text[i + 1] for i, word in enumerate(text[:-1]) if word == "param"]
        assert len(set(defined)) == 6
        assert described == defined[2:4]
        assert text[-1] == "param"
        assert answer_of(tokenizer, prompts, row) == defined[4]
        wrong = {tokenizer.decode([token]) for token in prompts.answers[prompts.wrong[row]].tolist()}
        assert wrong == set(defined) - {defined[4]}
    marked = prompts.tokens[torch.arange(60), prompts.marks["defined"]]
    assert torch.equal(marked, prompts.answers[prompts.right.int().argmax(1)])


def test_corrupted_functions_have_other_arguments_than_they_describe(tokenizer):
    task = TASKS["docstring"](tokenizer)
    choices = task.draw(60, "test", 0)
    clean, corrupted = task.prompts(choices), task.prompts(task.corrupted(choices, 1))
    for row, text in enumerate(texts(tokenizer, corrupted)):
        described = [text[i + 1] for i, word in enumerate(text[:-1]) if word == "param"]
        assert not set(text[: text.index(")")]) & {*described, answer_of(tokenizer, clean, row)}
