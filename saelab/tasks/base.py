"""What a task is: prompts made of known choices, each asking for its next token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from saelab.errors import SaelabError, did_you_mean
from saelab.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Tokenizer = PreTrainedTokenizerBase
else:
    Tokenizer = object

Split = Literal["train", "test"]
"""Fillers and templates of the two have nothing in common; attributes do."""
Metric = Literal["logit_difference", "probability_difference"]
Choices = Mapping[str, Tensor]
"""`[prompt]` int64 columns: all that a prompt is made of. Some are attributes, the others fillers and templates."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of one task, ready to run.

    Attributes:
        tokens: `[prompt, position]` int64, padded on the right; a BOS first where the tokenizer has one.
        end: `[prompt]` int64: the position whose next token is asked for.
        answers: `[answer]` int64: tokens that are right for some prompt, or wrong.
        right, wrong: `[prompt, answer]` bool: which of them for this one. Every prompt has at least one of each.
        choices: what each is made of.
        marks: `[prompt]` int64 positions of words that carry something, by name: the last token of each.
    """

    tokens: Tensor
    end: Tensor
    answers: Tensor
    right: Tensor
    wrong: Tensor
    choices: Choices
    marks: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.tokens.shape[0]


class Task(Protocol):
    """A family of prompts.

    Attributes:
        metric: how answers are scored (`saelab.tasks.measure`).
        attributes: what a prompt says, by name: the texts of each one's values. A column of `Choices` holds the
            value's number.
    """

    metric: Metric

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]: ...

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        """`n` prompts' choices, evenly over the values of every attribute as far as that goes."""
        ...

    def prompts(self, choices: Choices) -> Prompts:
        """Choices as tokens. A prompt's length depends on its template alone, never on attributes."""
        ...

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        """The same prompts without what decides the answer: equal in length, template and fillers. Right and wrong stay
        those of `choices`; columns of their own say what is shown instead."""
        ...

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        """The same prompts with another value of one attribute each, all else equal.

        Raises:
            SaelabError: there is no such attribute.
        """
        ...


def check_attribute(task: Task, attribute: str) -> None:
    """Raise where a task has no such attribute.

    Raises:
        SaelabError: with the close ones.
    """
    if attribute not in task.attributes:
        raise SaelabError(f"unknown attribute '{attribute}'", fix=did_you_mean(attribute, task.attributes) or None)


TASKS: Registry[Callable[[Tokenizer], Task]] = Registry("task")
"""Called with a tokenizer.

Raises, on being called:
    SaelabError: too little of the task's words are single tokens of it; says how many of how many.
"""
for _name, _class in {
    "ioi": "ioi:IndirectObject",
    "greater_than": "greater_than:GreaterThan",
    "agreement": "agreement:Agreement",
    "gender": "pronoun:Pronoun",
    "capital": "capital:Capital",
    "docstring": "docstring:Docstring",
    "induction": "induction:Induction",
}.items():
    TASKS.add(_name, f"saelab.tasks.{_class}")
