"""Indirect objects (Wang et al., 2211.00593): of two names, which one is given something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.tasks import draws
from saelab.tasks.base import Choices, Metric, Prompts, Split, Tokenizer, check_attribute
from saelab.tasks.spelling import check_enough, single_tokens
from saelab.tasks.templates import Templates, one_of
from saelab.tasks.words.indirect import OBJECTS, PLACES, TEST, TRAIN
from saelab.tasks.words.people import NAMES


class IndirectObject:
    """ "When Mary and John went to the store, John gave the book to" asks for " Mary".

    Attributes are `IO` (who is given something), `S` (who gives it, and is named twice) and `position`: ABB, or BAB
    where S is named before IO. Marks are the three names: `IO`, `S1` and `S2`. Corrupted prompts name three others,
    once each (columns `first`, `second`, `giver`). All prompts end on " to".
    """

    metric: Metric = "logit_difference"
    positions = ("ABB", "BAB")

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        known = [name for pair in NAMES for name in pair]
        self._names = single_tokens(tokenizer, known)
        self._fillers = {
            "place": list(single_tokens(tokenizer, PLACES)),
            "object": list(single_tokens(tokenizer, OBJECTS)),
        }
        self._templates = Templates(TRAIN, TEST)
        check_enough("names", len(self._names), len(known), 8)
        check_enough("places", len(self._fillers["place"]), len(PLACES), 4)
        check_enough("objects", len(self._fillers["object"]), len(OBJECTS), 4)

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        names = tuple(self._names)
        return {"IO": names, "S": names, "position": self.positions}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        rng = draws.generator(seed)
        io, s = draws.even_pairs(n, len(self._names), rng)
        fillers = {name: draws.even(n, draws.halves(len(words))[split], rng) for name, words in self._fillers.items()}
        position = draws.even(n, range(2), rng)
        template = draws.even(n, self._templates.of(split), rng)
        return {"IO": io, "S": s, "position": position, "template": template, **fillers}

    def prompts(self, choices: Choices) -> Prompts:
        """As every task.

        Raises:
            SaelabError: IO and S are one person somewhere; `changed` never makes that.
        """
        io, s = choices["IO"], choices["S"]
        if same := int((io == s).sum()):
            raise SaelabError(
                f"IO and S are the same name in {same} of {len(io)} prompts, which then have no answer",
                fix="take names from `changed`, which keeps them apart",
            )
        names = list(self._names)
        words = {slot: [names[i] for i in column] for slot, column in _shown(choices).items()}
        words |= {slot: [known[i] for i in choices[slot]] for slot, known in self._fillers.items()}
        tokens, end = self._templates.fill(self._tokenizer, choices["template"], words)
        answers = torch.tensor(list(self._names.values()))
        marks = self._marks(choices, words)
        return Prompts(tokens, end, answers, one_of(io, len(names)), one_of(s, len(names)), choices, marks)

    def _marks(self, choices: Choices, words: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        at = self._templates.marks(self._tokenizer, choices["template"], words, ("first", "second", "giver"))
        before = choices["position"] == 0
        return {
            "IO": torch.where(before, at["first"], at["second"]),
            "S1": torch.where(before, at["second"], at["first"]),
            "S2": at["giver"],
        }

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        asked = torch.stack([choices["IO"], choices["S"]], 1)
        first, second, giver = draws.others(asked, len(self._names), 3, draws.generator(seed)).unbind(1)
        return {**choices, "first": first, "second": second, "giver": giver}

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        check_attribute(self, attribute)
        if attribute == "position":
            return {**choices, "position": 1 - choices["position"]}
        asked = torch.stack([choices["IO"], choices["S"]], 1)
        return {**choices, attribute: draws.others(asked, len(self._names), 1, draws.generator(seed))[:, 0]}


def _shown(choices: Choices) -> dict[str, Tensor]:
    """Which names stand in the slots."""
    io, s = choices["IO"], choices["S"]
    before = choices["position"] == 0
    said = {"first": torch.where(before, io, s), "second": torch.where(before, s, io), "giver": s}
    return {slot: choices.get(slot, name) for slot, name in said.items()}
