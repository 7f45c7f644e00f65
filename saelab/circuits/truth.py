"""What a method's scores are held against: published circuits, or exact patching on other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.circuits.anatomy import Anatomy
from saelab.circuits.scores import Scores
from saelab.lm.model import LanguageModel

CUT_OFF = 0.02
"""A head is in the circuit where patching it loses (or gains) at least this share of the score that corrupting the
whole prompt loses. Fixed before any method was measured; it is 0.1 logits of 5."""
OTHER_CUT_OFFS = (0.01, 0.05)
"""Results are also given for these."""

Heads = Sequence[tuple[int, int]]
"""(layer, head) of each."""


@dataclass(frozen=True, eq=False)
class Truth:
    """A circuit that is taken for true.

    Attributes:
        source: where it is from.
        members: `[layer, head]` bool.
        effects: `[layer, head]` what exact patching says, as a share of the whole effect, where that is the source.
    """

    source: str
    members: Tensor
    effects: Tensor | None = None


def by_patching(
    exact: Scores, effect: float, cut_offs: Sequence[float] = (CUT_OFF, *OTHER_CUT_OFFS)
) -> dict[float, Truth]:
    """One truth for each cut-off, in their order.

    Args:
        exact: of `ActivationPatching`, on prompts that no other method sees.
        effect: clean minus corrupted score on the same prompts.
    """
    shares = exact.heads / effect
    return {
        cut_off: Truth(f"exact patching, at least {100 * cut_off:g} % of the effect", shares.abs() >= cut_off, shares)
        for cut_off in cut_offs
    }


@dataclass(frozen=True)
class Published:
    """A circuit from a paper.

    Attributes:
        task: of `TASKS`.
        models: what the model is called (the last part of its name, lower case).
        shape: layers, heads and d_model, which have to be the model's too.
        heads: by role.
        source: paper and list.
    """

    task: str
    models: tuple[str, ...]
    shape: tuple[int, int, int]
    heads: Mapping[str, Heads]
    source: str

    @property
    def all(self) -> list[tuple[int, int]]:
        return [head for heads in self.heads.values() for head in heads]


_GPT2 = {"models": ("gpt2", "gpt2-small"), "shape": (12, 12, 768)}
_ATTENTION_ONLY = {"models": ("attn-only-4l", "attn_only_4l512w_c4_code"), "shape": (4, 8, 512)}
_IOI = {
    "name mover": ((9, 9), (10, 0), (9, 6)),
    "negative name mover": ((10, 7), (11, 10)),
    "S-inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "induction": ((5, 5), (5, 8), (5, 9), (6, 9)),
    "duplicate token": ((0, 1), (0, 10), (3, 0)),
    "previous token": ((2, 2), (4, 11)),
}
_BACKUP = ((10, 10), (10, 6), (10, 2), (10, 1), (11, 2), (9, 7), (9, 0), (11, 9))

PUBLISHED = (
    Published("ioi", **_GPT2, heads=_IOI | {"backup name mover": _BACKUP}, source="Wang et al. 2211.00593, as in ACDC"),
    Published(
        "ioi",
        **_GPT2,
        heads=_IOI | {"backup name mover": tuple((11, 3) if head == (9, 0) else head for head in _BACKUP)},
        source="O'Neill and Bui 2405.12522 (11.3 for 9.0)",
    ),
    Published(
        "greater_than",
        **_GPT2,
        heads={"all": ((0, 1), (0, 3), (0, 5), (5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1))},
        source="Hanna et al. 2305.00586, as in ACDC",
    ),
    Published(
        "greater_than",
        **_GPT2,
        heads={"direct": ((5, 1), (5, 5), (6, 9), (7, 10), (8, 8), (8, 11), (9, 1))},
        source="Hanna et al. 2305.00586, heads that act directly in their code",
    ),
    Published(
        "docstring",
        **_ATTENTION_ONLY,
        heads={"all": ((0, 5), (1, 0), (1, 4), (2, 0), (3, 0), (3, 6))},
        source="O'Neill and Bui 2405.12522",
    ),
    Published(
        "docstring",
        **_ATTENTION_ONLY,
        heads={"all": ((0, 5), (1, 2), (1, 4), (2, 0), (3, 0), (3, 6))},
        source="Heimersheim and Janiak 2023, as in ACDC",
    ),
    Published(
        "docstring",
        **_ATTENTION_ONLY,
        heads={"all": ((0, 2), (0, 4), (0, 5), (1, 2), (1, 4), (2, 0), (3, 0), (3, 6))},
        source="Heimersheim and Janiak 2023, as in auto-circuit",
    ),
)


def published(lm: LanguageModel, task: str) -> list[Truth]:
    """All that is published of this model and task; none for most."""
    anatomy = Anatomy.of(lm)
    shape = (anatomy.n_layers, anatomy.n_heads, anatomy.d_model)
    called = str(lm.identity["name"]).rsplit("/", 1)[-1].lower()
    return [
        Truth(known.source, members(known.all, shape[:2]))
        for known in PUBLISHED
        if known.task == task and called in known.models and shape == known.shape
    ]


def members(heads: Heads, shape: tuple[int, int]) -> Tensor:
    """`[layer, head]` bool."""
    found = torch.zeros(shape, dtype=torch.bool)
    for layer, head in heads:
        found[layer, head] = True
    return found
