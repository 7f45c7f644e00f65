"""Greater-than (Hanna et al., 2305.00586): a span of years ends after it began."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter

import torch

from saelab.errors import SaelabError
from saelab.tasks import draws
from saelab.tasks.base import Choices, Metric, Prompts, Split, Tokenizer, check_attribute
from saelab.tasks.spelling import behind, check_enough, single_tokens
from saelab.tasks.templates import Templates
from saelab.tasks.words.nouns import EVENTS
from saelab.tasks.words.sentences import SPANS

_CENTURY = "to the year 17"
_YEARS = [f"{year:02d}" for year in range(1, 99)]
_DIGITS = "0123456789"


class GreaterThan:
    """ "The war lasted from the year 1732 to the year 17" asks for a later year.

    Where two digits are one token (GPT-2), years after the start are right, the others wrong. Where each digit is
    one (Llama), the tens digit is asked for: greater ones are right, smaller ones wrong, and the start's own, which may
    be either, is neither. The attribute is the start's `decade`; its other digit (`unit`) is a filler. Corrupted
    prompts start in 1701 (column `blank`), or the earliest year that is cut as the others are.
    """

    metric: Metric = "probability_difference"

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._answers = _answers(tokenizer)
        self._events = list(single_tokens(tokenizer, EVENTS))
        check_enough("events", len(self._events), len(EVENTS), 4)
        self._templates = Templates(*SPANS)
        self._asked = len(next(iter(self._answers)))
        self._blank = "01" if self._asked == 1 else min(self._answers)
        self._years = {tens: list(years) for tens, years in groupby(self._starts(), key=itemgetter(0))}

    def _starts(self) -> list[str]:
        """Years that are cut as the answers are and have an earlier and a later one."""
        if self._asked == 1:
            return [year for year in _YEARS if "0" < year[0] < "9"]
        return sorted(self._answers)[1:-1]

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
        starts = self._begun(choices)
        blank = choices.get("blank", torch.zeros(len(starts), dtype=torch.int64)).tolist()
        words = {
            "event": [self._events[i] for i in choices["event"]],
            "start": [self._blank if hidden else start for start, hidden in zip(starts, blank, strict=True)],
        }
        tokens, end = self._templates.fill(self._tokenizer, choices["template"], words)
        later = torch.tensor([[text > start[: self._asked] for text in self._answers] for start in starts])
        same = torch.tensor([[text == start[:1] for text in self._answers] for start in starts])
        return Prompts(tokens, end, torch.tensor(list(self._answers.values())), later, ~later & ~same, choices)

    def _begun(self, choices: Choices) -> list[str]:
        decades = list(self._years.values())
        pairs = zip(choices["decade"].tolist(), choices["unit"].tolist(), strict=True)
        return [decades[decade][unit % len(decades[decade])] for decade, unit in pairs]

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        return {**choices, "blank": torch.ones_like(choices["decade"])}

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        check_attribute(self, attribute)
        decade = draws.others(choices["decade"][:, None], len(self._years), 1, draws.generator(seed))[:, 0]
        return {**choices, attribute: decade}


def _answers(tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens behind "17", by what they say: two digits each where most years are such a token, or else one.

    Raises:
        SaelabError: the tokenizer cuts years in other ways.
    """
    whole = dict(zip(_YEARS, behind(tokenizer, _CENTURY, _YEARS), strict=True))
    years = {year: found[0] for year, found in whole.items() if found is not None and len(found) == 1}
    if len(years) >= len(_YEARS) // 2 and len(set(years.values())) == len(years):
        return years
    digits = dict(zip(_DIGITS, behind(tokenizer, _CENTURY, _DIGITS), strict=True))
    single = {digit: found[0] for digit, found in digits.items() if found is not None and len(found) == 1}
    if len(set(single.values())) == 10 and all(whole[year] == [single[i] for i in year] for year in _YEARS):
        return single
    raise SaelabError(
        f"{len(years)} of {len(_YEARS)} years are '17' and one more token, and the others are not '17' and two digits",
        fix="take another task, or a model whose tokenizer cuts numbers into single digits or pairs",
    )
