"""Greater-than (Hanna et al., 2305.00586): a span of years ends after it began."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.tasks import draws
from saelab.tasks.base import Choices, Metric, Prompts, Split, Tokenizer
from saelab.tasks.spelling import behind, check_enough, single_tokens
from saelab.tasks.templates import Templates
from saelab.tasks.words.nouns import EVENTS
from saelab.tasks.words.sentences import SPANS

_CENTURY = "to the year 17"
_CORRUPTED = "01"
_YEARS = [f"{year:02d}" for year in range(2, 99)]


class GreaterThan:
    """ "The war lasted from the year 1732 to the year 17" asks for a later year.

    Where two digits are one token (GPT-2), years after the start are right, the others wrong. Where each digit is
    one (Llama), the tens digit is asked for: greater ones are right, smaller ones wrong, and the start's own, which may
    be either, is neither. The attribute is the start's `decade`; its other digit (`unit`) is a filler. Corrupted
    prompts start in 1701 (column `blank`).
    """

    metric: Metric = "probability_difference"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._answers = _answers(tokenizer)
        self._events = list(single_tokens(tokenizer, EVENTS))
        check_enough("events", len(self._events), len(EVENTS), 4)
        self._templates = Templates(*SPANS)
        self._years: dict[str, list[str]] = {}
        for year in _YEARS:
            if year in self._answers or self._by_digits:
                self._years.setdefault(year[0], []).append(year)
        if self._by_digits:  # no tens digit is greater than 9, or smaller than 0
            del self._years["0"], self._years["9"]

    @property
    def _by_digits(self) -> bool:
        return all(len(text) == 1 for text in self._answers)

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        return {"decade": tuple(f"17{tens}0s" for tens in self._years)}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        rng = draws.generator(seed)
        return {
            "decade": draws.even(n, range(len(self._years)), rng),
            "unit": draws.even(n, range(10), rng),
            "event": draws.even(n, draws.halves(len(self._events))[split], rng),
            "template": draws.even(n, self._templates.of(split), rng),
        }

    def prompts(self, choices: Choices) -> Prompts:
        starts = self._starts(choices)
        blank = choices.get("blank", torch.zeros(len(starts), dtype=torch.int64)).tolist()
        words = {
            "event": [self._events[i] for i in choices["event"]],
            "start": [_CORRUPTED if hidden else start for start, hidden in zip(starts, blank, strict=True)],
        }
        tokens, end = self._templates.fill(self._tokenizer, choices["template"], words)
        length = 1 if self._by_digits else 2
        later = torch.tensor([[text > start[:length] for text in self._answers] for start in starts])
        same = torch.tensor([[text == start[:1] for text in self._answers] for start in starts])
        return Prompts(tokens, end, torch.tensor(list(self._answers.values())), later, ~later & ~same, choices)

    def _starts(self, choices: Choices) -> list[str]:
        decades = list(self._years.values())
        pairs = zip(choices["decade"].tolist(), choices["unit"].tolist(), strict=True)
        return [decades[decade][unit % len(decades[decade])] for decade, unit in pairs]

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        return {**choices, "blank": torch.ones_like(choices["decade"])}

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        decade: Tensor = draws.others(choices["decade"][:, None], len(self._years), 1, draws.generator(seed))[:, 0]
        return {**choices, attribute: decade}


def _answers(tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens behind "17": of all two-digit years that are one, or else of digits.

    Raises:
        SaelabError: the tokenizer cuts years in other ways.
    """
    whole = behind(tokenizer, _CENTURY, _YEARS)
    years = {year: found[0] for year, found in zip(_YEARS, whole, strict=True) if found is not None and len(found) == 1}
    if (
        len(years) >= len(_YEARS) // 2
        and len(set(years.values())) == len(years)
        and min(years) < "10"
        and max(years) > "90"
    ):
        return years
    found = [
        row[0] for row in behind(tokenizer, _CENTURY, [str(digit) for digit in range(10)]) if row and len(row) == 1
    ]
    if len(set(found)) == 10 and all(
        row and [found[int(year[0])], found[int(year[1])]] == row for year, row in zip(_YEARS, whole, strict=True)
    ):
        return {str(digit): token for digit, token in enumerate(found)}
    raise SaelabError(
        f"of {len(_YEARS)} years, {len(years)} are '17' and one more token, and the others are not two digits behind it",
        fix="take another task, or a model whose tokenizer cuts numbers into single digits or pairs",
    )
