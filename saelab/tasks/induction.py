"""Induction (Olsson et al., 2209.11895): a list of words begins again, and goes on as before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saelab.tasks import draws
from saelab.tasks.base import Choices, Metric, Prompts, Split, Tokenizer, check_attribute
from saelab.tasks.spelling import check_enough, single_tokens
from saelab.tasks.templates import Templates, one_of
from saelab.tasks.words.indirect import OBJECTS, PLACES
from saelab.tasks.words.repeats import REPEATS

_SHOWN, _ANSWER, _AGAIN = 6, 3, 3
"""Words around the answer; how many of them, as many as are repeated, come before it."""


class Induction:
    """ "Words: park key river lamp ... park key river" asks for " lamp".

    The attribute is the `answer`; the other words are fillers (`word0` to `word5`). Marks are where the answer was
    said (`said`) and the word before it (`before`). Corrupted prompts have other words in the list (columns `list0` to
    `list6`), so that what is repeated was never said.
    """

    metric: Metric = "logit_difference"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        known = [word for pair in zip(PLACES, OBJECTS, strict=True) for word in pair]
        self._words = single_tokens(tokenizer, known)
        check_enough("words", len(self._words), len(known), 3 * (2 * _SHOWN + 1))
        self._of = draws.thirds(len(self._words))
        self._templates = Templates(*REPEATS)

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        words = list(self._words)
        return {"answer": tuple(words[i] for i in self._of["both"])}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        rng = draws.generator(seed)
        answer = draws.even(n, range(len(self._of["both"])), rng)
        shown = draws.among(self._of[split], self._pool(answer)[:, None], _SHOWN, rng)
        template = draws.even(n, self._templates.of(split), rng)
        return {"answer": answer, "template": template, **{f"word{i}": shown[:, i] for i in range(_SHOWN)}}

    def _pool(self, answer: Tensor) -> Tensor:
        """The attribute's values as numbers of all words."""
        return torch.tensor(self._of["both"])[answer]

    def prompts(self, choices: Choices) -> Prompts:
        known, answer = list(self._words), self._pool(choices["answer"])
        shown = [choices[f"word{i}"] for i in range(_SHOWN)]
        said = [choices.get(f"list{i}", word) for i, word in enumerate([*shown, answer])]
        slots = {f"again{i}": shown[i] for i in range(_AGAIN)} | {f"said{i}": said[i] for i in range(_SHOWN)}
        words = {slot: [known[i] for i in column] for slot, column in (slots | {"answer": said[-1]}).items()}
        tokens, end = self._templates.fill(self._tokenizer, choices["template"], words)
        of = torch.tensor(self._of["both"])
        right = one_of(choices["answer"], len(of))
        answers = torch.tensor(list(self._words.values()))[of]
        at = self._templates.marks(self._tokenizer, choices["template"], words, ("answer", f"said{_ANSWER - 1}"))
        marks = {"said": at["answer"], "before": at[f"said{_ANSWER - 1}"]}
        return Prompts(tokens, end, answers, right, ~right, choices, marks)

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        shown = torch.stack([choices[f"word{i}"] for i in range(_SHOWN)], 1)
        split: Split = "train" if int(choices["template"].max()) in self._templates.of("train") else "test"
        other = draws.among(self._of[split], shown, _SHOWN + 1, draws.generator(seed))
        return {**choices, **{f"list{i}": other[:, i] for i in range(_SHOWN + 1)}}

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        check_attribute(self, attribute)
        answer = choices[attribute]
        return {
            **choices,
            attribute: draws.others(answer[:, None], len(self._of["both"]), 1, draws.generator(seed))[:, 0],
        }
