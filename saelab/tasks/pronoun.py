"""Which pronoun a person is given."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from saelab.tasks import draws
from saelab.tasks.base import Choices, Metric, Prompts, Split, Tokenizer, check_attribute
from saelab.tasks.spelling import check_enough, single_pairs, single_tokens
from saelab.tasks.templates import Templates, one_of
from saelab.tasks.words.indirect import PLACES
from saelab.tasks.words.people import FAMILY, PERSONS, PRONOUNS
from saelab.tasks.words.sentences import REASONS


class Pronoun:
    """ "At the station, the grandmother smiled because" asks for " she".

    The attribute is `gender`; which pair of relatives (`pair`) is a filler, so that changing the gender turns the
    grandmother into the grandfather. Corrupted prompts are about a person of either sex (column `anyone`).
    All prompts end on " because".
    """

    metric: Metric = "logit_difference"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._pairs = single_pairs(tokenizer, FAMILY)
        self._places = list(single_tokens(tokenizer, PLACES))
        self._persons = list(single_tokens(tokenizer, PERSONS))
        self._answers = single_tokens(tokenizer, PRONOUNS)
        self._templates = Templates(*REASONS)
        check_enough("pairs of relatives", len(self._pairs), len(FAMILY), 4)
        check_enough("places", len(self._places), len(PLACES), 4)
        check_enough("words for persons", len(self._persons), len(PERSONS), 1)
        check_enough("pronouns", len(self._answers), len(PRONOUNS), 2)

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        return {"gender": ("male", "female")}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        rng = draws.generator(seed)
        return {
            "gender": draws.even(n, range(2), rng),
            "pair": draws.even(n, draws.halves(len(self._pairs))[split], rng),
            "place": draws.even(n, draws.halves(len(self._places))[split], rng),
            "template": draws.even(n, self._templates.of(split), rng),
        }

    def prompts(self, choices: Choices) -> Prompts:
        gender = choices["gender"]
        persons = [self._pairs[pair][sex] for pair, sex in zip(choices["pair"].tolist(), gender.tolist(), strict=True)]
        if "anyone" in choices:
            persons = [self._persons[i] for i in choices["anyone"]]
        words = {"person": persons, "place": [self._places[i] for i in choices["place"]]}
        tokens, end = self._templates.fill(self._tokenizer, choices["template"], words)
        right = one_of(gender, 2)
        return Prompts(tokens, end, torch.tensor(list(self._answers.values())), right, ~right, choices)

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        return {
            **choices,
            "anyone": draws.even(len(choices["gender"]), range(len(self._persons)), draws.generator(seed)),
        }

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        check_attribute(self, attribute)
        return {**choices, attribute: 1 - choices[attribute]}
