"""Concepts: tokens with a label each, to be read off activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from saelab.registry import Registry
from saelab.tasks.base import Tokenizer


@dataclass(frozen=True, eq=False)
class Text:
    """Running text, as a store keeps it: `[context, position]` int64 tokens and documents, `[context]` lengths."""

    tokens: Tensor
    documents: Tensor
    length: Tensor


@dataclass(frozen=True, eq=False)
class Labelled:
    """Tokens with a class each.

    Attributes:
        classes: what the labels mean. Of two, the second is the positive one.
        tokens: `[context, position]` int64, padded on the right: a prompt each, or running text.
        context, position: `[example]` int64: which token is looked at.
        label: `[example]` int64, below `len(classes)`.
        test: `[example]` bool: held out from what is fitted. No document, prompt filler or word is on both sides,
            unless the class is the document: then no context.
        others: further labels of the same examples, `[example]` int64, by name, and what they mean.
        bidirectional: the two classes are poles of one direction, not presence and absence.
    """

    classes: tuple[str, ...]
    tokens: Tensor
    context: Tensor
    position: Tensor
    label: Tensor
    test: Tensor
    others: Mapping[str, tuple[tuple[str, ...], Tensor]] = field(default_factory=dict)
    bidirectional: bool = False

    def __len__(self) -> int:
        return self.label.shape[0]

    def is_class(self, number: int) -> Tensor:
        """`[example]` bool."""
        return self.label == number


CONCEPTS: Registry[Callable[[Tokenizer, Text, int, int], Labelled]] = Registry("concept")
"""Called with a tokenizer, held-out text, the number of examples wanted (a third of them for testing; fewer where there
are no more; classes balanced as far as that goes) and a seed.

Raises, on being called:
    SaelabError: the tokenizer or the text does not give enough; says how much it gives.
"""
for _name, _function in {
    "gender": "poles:gender",
    "number": "poles:number",
    "sentiment": "poles:sentiment",
    "capital_country": "poles:capital_country",
    "gender_topic": "poles:gender_topic",
    "first_letter": "running:first_letter",
    "token_kind": "running:token_kind",
    "article": "running:article",
}.items():
    CONCEPTS.add(_name, f"saelab.tasks.{_function}")
