"""Templates of two splits, and prompts made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.tasks.base import Split, Tokenizer
from saelab.tasks.spelling import sentences


@dataclass(frozen=True)
class Templates:
    """Texts with `{slots}`, none of which a text begins with: a word is another token there in many tokenizers."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: Split) -> range:
        """The numbers of a split's templates."""
        count = len(self.train)
        return range(count) if split == "train" else range(count, count + len(self.test))

    def fill(self, tokenizer: Tokenizer, template: Tensor, words: Mapping[str, Sequence[str]]) -> tuple[Tensor, Tensor]:
        """`[prompt, position]` tokens and `[prompt]` last positions.

        Args:
            template: `[prompt]` numbers.
            words: one for each prompt, by slot.

        Raises:
            SaelabError: prompts of one template differ in length.
        """
        texts = (*self.train, *self.test)
        rows = zip(*words.values(), strict=True)
        filled = [
            texts[number].format_map(dict(zip(words, row, strict=True)))
            for number, row in zip(template.tolist(), rows, strict=True)
        ]
        tokens, length = sentences(tokenizer, filled)
        for number in template.unique():
            found = length[template == number].unique()
            if len(found) > 1:
                raise SaelabError(
                    f"'{texts[number]}' is {' or '.join(map(str, found.tolist()))} tokens long, depending on its words",
                    fix="take another model: this tokenizer melts words that stand side by side",
                )
        return tokens, length - 1


def one_of(choice: Tensor, count: int) -> Tensor:
    """`[prompt, count]` bool: True at each prompt's choice."""
    return choice[:, None] == torch.arange(count)
