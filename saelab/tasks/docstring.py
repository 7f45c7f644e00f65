"""Docstrings (Heimersheim and Janiak, 2023): which argument is described next."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saelab.tasks import draws
from saelab.tasks.base import Choices, Metric, Prompts, Split, Tokenizer, check_attribute
from saelab.tasks.spelling import check_enough, single_tokens
from saelab.tasks.templates import Templates, one_of
from saelab.tasks.words.arguments import ARGUMENTS, DOCSTRINGS, FUNCTIONS
from saelab.tasks.words.indirect import OBJECTS, PLACES

_ARGUMENTS = ("before", "other", "first", "second", "after")
_DESCRIBED = {"said": "first", "told": "second"}
_TEXT = {"function": FUNCTIONS, "place": PLACES, "object": OBJECTS, "thing": OBJECTS}


class Docstring:
    """ "def run(self, data, key, size, line, file, mode):" and a docstring that describes `size` and `line` asks for
    " file".

    The attribute is the `argument` asked for. Right is it, wrong are the definition's others. Marks are where it is
    defined (`defined`) and the last one described (`described`). Corrupted prompts define other arguments than the
    docstring describes (columns `define_...`).
    """

    metric: Metric = "logit_difference"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._words = single_tokens(tokenizer, ARGUMENTS)
        self._text = {slot: list(single_tokens(tokenizer, words)) for slot, words in _TEXT.items()}
        check_enough("names of arguments", len(self._words), len(ARGUMENTS), 3 * (2 * len(_ARGUMENTS) + 1))
        for slot, words in self._text.items():
            check_enough(f"words for a {slot}", len(words), len(_TEXT[slot]), 4)
        self._of = draws.thirds(len(self._words))
        self._templates = Templates(*DOCSTRINGS)

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        words = list(self._words)
        return {"argument": tuple(words[i] for i in self._of["both"])}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        rng = draws.generator(seed)
        asked = draws.even(n, range(len(self._of["both"])), rng)
        fillers = {slot: draws.even(n, draws.halves(len(words))[split], rng) for slot, words in self._text.items()}
        names = draws.among(self._of[split], self._pool(asked)[:, None], len(_ARGUMENTS), rng)
        template = draws.even(n, self._templates.of(split), rng)
        return {
            "argument": asked,
            "template": template,
            **fillers,
            **dict(zip(_ARGUMENTS, names.unbind(1), strict=True)),
        }

    def _pool(self, asked: Tensor) -> Tensor:
        """The attribute's values as numbers of all names."""
        return torch.tensor(self._of["both"])[asked]

    def prompts(self, choices: Choices) -> Prompts:
        names = list(self._words)
        asked = {**{slot: choices[slot] for slot in _ARGUMENTS}, "asked": self._pool(choices["argument"])}
        shown = {slot: choices.get(f"define_{slot}", column) for slot, column in asked.items()}
        described = {slot: asked[of] for slot, of in _DESCRIBED.items()}
        words = {slot: [names[i] for i in column] for slot, column in (shown | described).items()}
        words |= {slot: [known[i] for i in choices[slot]] for slot, known in self._text.items()}
        tokens, end = self._templates.fill(self._tokenizer, choices["template"], words)
        right = one_of(asked["asked"], len(names))
        wrong = torch.stack([one_of(asked[slot], len(names)) for slot in _ARGUMENTS]).any(0)
        at = self._templates.marks(self._tokenizer, choices["template"], words, ("asked", "told"))
        marks = {"defined": at["asked"], "described": at["told"]}
        return Prompts(tokens, end, torch.tensor(list(self._words.values())), right, wrong, choices, marks)

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        shown = torch.stack([choices[slot] for slot in _ARGUMENTS], 1)
        split: Split = "train" if int(choices["template"].max()) in self._templates.of("train") else "test"
        other = draws.among(self._of[split], shown, len(_ARGUMENTS) + 1, draws.generator(seed)).unbind(1)
        return {
            **choices,
            **{f"define_{slot}": column for slot, column in zip((*_ARGUMENTS, "asked"), other, strict=True)},
        }

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        check_attribute(self, attribute)
        asked = choices[attribute]
        return {
            **choices,
            attribute: draws.others(asked[:, None], len(self._of["both"]), 1, draws.generator(seed))[:, 0],
        }
