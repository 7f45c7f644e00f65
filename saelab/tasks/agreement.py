"""Subject-verb agreement across another noun (Linzen et al., 1611.01368)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from saelab.tasks import draws
from saelab.tasks.base import Choices, Metric, Prompts, Split, Tokenizer, check_attribute
from saelab.tasks.spelling import check_enough, single_pairs, single_tokens
from saelab.tasks.templates import Templates
from saelab.tasks.words.nouns import EITHER, NOUNS, VERBS
from saelab.tasks.words.sentences import SUBJECTS

_NUMBERS = ("singular", "plural")


class Agreement:
    """ "The keys near the cabinet" asks for " are", " were" or " have".

    Attributes are `number` (of the subject) and `distractor` (the number of the noun between). Corrupted prompts have a
    subject that is the same in both numbers (column `neither`): "The sheep near the cabinet".
    """

    metric: Metric = "logit_difference"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._nouns = single_pairs(tokenizer, NOUNS)
        self._verbs = single_tokens(tokenizer, [verb for pair in single_pairs(tokenizer, VERBS) for verb in pair])
        self._either = list(single_tokens(tokenizer, EITHER))
        self._templates = Templates(*SUBJECTS)
        check_enough("pairs of nouns", len(self._nouns), len(NOUNS), 8)
        check_enough("verb forms", len(self._verbs), 2 * len(VERBS), 2)
        check_enough("nouns without a plural form", len(self._either), len(EITHER), 1)

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        return {"number": _NUMBERS, "distractor": _NUMBERS}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        rng = draws.generator(seed)
        nouns = draws.halves(len(self._nouns))[split]
        subject, other = draws.even_pairs(n, len(nouns), rng)
        known = torch.tensor(nouns)
        return {
            "number": draws.even(n, range(2), rng),
            "distractor": draws.even(n, range(2), rng),
            "subject": known[subject],
            "other": known[other],
            "template": draws.even(n, self._templates.of(split), rng),
        }

    def prompts(self, choices: Choices) -> Prompts:
        words = {slot: self._words(choices, slot, number) for slot, number in _SLOTS.items()}
        if "neither" in choices:
            words["subject"] = [self._either[i] for i in choices["neither"]]
        tokens, end = self._templates.fill(self._tokenizer, choices["template"], words)
        numbers = torch.arange(len(self._verbs)) % 2  # of each verb
        right = numbers == choices["number"][:, None]
        return Prompts(tokens, end, torch.tensor(list(self._verbs.values())), right, ~right, choices)

    def _words(self, choices: Choices, slot: str, number: str) -> list[str]:
        pairs = zip(choices[slot].tolist(), choices[number].tolist(), strict=True)
        return [self._nouns[noun][form] for noun, form in pairs]

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        return {
            **choices,
            "neither": draws.even(len(choices["number"]), range(len(self._either)), draws.generator(seed)),
        }

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        check_attribute(self, attribute)
        return {**choices, attribute: 1 - choices[attribute]}


_SLOTS = {"subject": "number", "other": "distractor"}
