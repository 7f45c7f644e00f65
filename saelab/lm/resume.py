"""Forward passes that begin at a block and end at one position: all that patching one component needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.lm.model import LanguageModel

NamedHook = tuple[str, Callable[[Tensor, Any], Tensor | None]]
"""A hook's name, and what is to be done to what it carries."""


def logits_at(
    lm: LanguageModel, start: Tensor, at: Tensor, *, block: int | None = None, hooks: Sequence[NamedHook] = ()
) -> Tensor:
    """`[row, vocabulary]` logits of one position `at` (`[row]`) of each row, in the model's dtype.

    Blocks before `block` are not run, and the vocabulary is scored at the wanted positions alone: the same logits as
    of the whole pass, for its share of the work. Gradients flow.

    Args:
        start: tokens `[row, position]`; or where there is a `block`, the residual stream that enters it,
            `[row, position, d_model]`.

    Raises:
        SaelabError: the model is built in a way that the bridge cannot enter half-way.
    """
    rows, at = torch.arange(len(at), device=lm.device), at.to(lm.device)

    def pick(value: Tensor, hook: Any) -> Tensor:
        return value[rows, at][:, None]

    with lm.hooked([*hooks, ("unembed.hook_in", pick)]) as bridge:
        if block is None:
            return bridge(start.to(lm.device))[:, 0]
        with _passed_over(bridge, block):
            try:
                return bridge(start, start_at_layer=block)[:, 0]
            except (NotImplementedError, ValueError) as error:
                raise SaelabError(
                    f"{lm.identity['name']} cannot be run from block {block} on: {error}", fix="take another model"
                ) from error


@contextmanager
def _passed_over(bridge: Any, block: int) -> Iterator[None]:
    """While inside, the blocks before `block` hand on what they are given. (The bridge runs them and throws away what
    they say.)"""
    skipped = list(bridge.blocks)[:block]
    for part in skipped:
        part.__dict__["forward"] = _hand_on  # past the component's own __setattr__, as shortcuts do
    try:
        yield
    finally:
        for part in skipped:
            part.__dict__.pop("forward", None)


def _hand_on(hidden: Tensor, *others: Any, **named: Any) -> Tensor:
    return hidden
