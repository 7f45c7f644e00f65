"""Capitals of countries."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from saelab.tasks import draws
from saelab.tasks.base import Choices, Metric, Prompts, Split, Tokenizer, check_attribute
from saelab.tasks.spelling import check_enough, single_pairs, single_tokens
from saelab.tasks.templates import Templates, one_of
from saelab.tasks.words.capitals import CAPITALS
from saelab.tasks.words.people import PERSONS
from saelab.tasks.words.sentences import GEOGRAPHY


class Capital:
    """ "As every teacher knows, the capital of France is the city of" asks for " Paris"; other capitals are wrong.

    The attribute is `country`. Corrupted prompts name another one (column `shown`).
    """

    metric: Metric = "logit_difference"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._pairs = single_pairs(tokenizer, CAPITALS)
        self._persons = list(single_tokens(tokenizer, PERSONS))
        self._templates = Templates(*GEOGRAPHY)
        check_enough("countries with their capitals", len(self._pairs), len(CAPITALS), 4)
        check_enough("words for persons", len(self._persons), len(PERSONS), 4)
        self._answers = single_tokens(tokenizer, [capital for _, capital in self._pairs])

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        return {"country": tuple(country for country, _ in self._pairs)}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        rng = draws.generator(seed)
        return {
            "country": draws.even(n, range(len(self._pairs)), rng),
            "person": draws.even(n, draws.halves(len(self._persons))[split], rng),
            "template": draws.even(n, self._templates.of(split), rng),
        }

    def prompts(self, choices: Choices) -> Prompts:
        words = {
            "country": [self._pairs[i][0] for i in choices.get("shown", choices["country"])],
            "person": [self._persons[i] for i in choices["person"]],
        }
        tokens, end = self._templates.fill(self._tokenizer, choices["template"], words)
        right = one_of(choices["country"], len(self._pairs))
        return Prompts(tokens, end, torch.tensor(list(self._answers.values())), right, ~right, choices)

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        return {**choices, "shown": self._other(choices, seed)}

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        check_attribute(self, attribute)
        return {**choices, attribute: self._other(choices, seed)}

    def _other(self, choices: Choices, seed: int) -> torch.Tensor:
        return draws.others(choices["country"][:, None], len(self._pairs), 1, draws.generator(seed))[:, 0]
