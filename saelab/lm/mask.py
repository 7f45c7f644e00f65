"""Which positions count: one policy for training, evaluation, splicing and the browser.

The first position and special tokens carry activations of another kind (a norm many times the usual),
which would eat a batch's budget and dominate every mean. A masked position is not stored, not trained
on, and keeps its original activation in every comparison, ablations included.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from saelab.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class MaskSpec:
    """The policy as a user writes it."""

    first_position: Annotated[bool, "leave out position 0 of every context"] = True
    special_tokens: Annotated[bool, "leave out BOS, EOS, padding and other special tokens"] = True
    max_norm_ratio: Annotated[
        float | None, "leave out activations longer than this many times the median; hits are counted"
    ] = None

    def __post_init__(self) -> None:
        if self.max_norm_ratio is not None and self.max_norm_ratio <= 1:
            raise SettingError("max_norm_ratio", f"must be more than 1, found {self.max_norm_ratio}")


@dataclass(frozen=True)
class Mask:
    """The policy made definite for one tokenizer, saved with everything made under it.

    Attributes:
        special: the ids that count as special tokens (empty where they are kept).
        norm_limits: by hook, the longest norm kept, in raw units.
    """

    first_position: bool
    special: tuple[int, ...]
    norm_limits: dict[str, float]

    @classmethod
    def everything(cls) -> Mask:
        """Leaves nothing out."""
        return cls(first_position=False, special=(), norm_limits={})

    @classmethod
    def of(cls, spec: MaskSpec, tokenizer: PreTrainedTokenizerBase) -> Mask:
        special = tuple(sorted(set(tokenizer.all_special_ids))) if spec.special_tokens else ()
        return cls(spec.first_position, special, {})

    def keep_tokens(self, tokens: Tensor, place: Tensor | None = None) -> Tensor:
        """`[context, position]` token ids -> bool, what the tokens alone allow.

        Args:
            place: `[context, position]`, where in its context each token stands; None: from 0 on.
        """
        keep = torch.ones_like(tokens, dtype=torch.bool)
        if self.first_position and place is not None:
            keep &= place != 0
        elif self.first_position:
            keep[:, 0] = False
        if self.special:
            keep &= ~torch.isin(tokens, torch.tensor(self.special, device=tokens.device, dtype=tokens.dtype))
        return keep

    def keep(self, tokens: Tensor, hook: str, activations: Tensor, place: Tensor | None = None) -> Tensor:
        """Also what the norms of `[context, position, d_hook]` allow."""
        keep = self.keep_tokens(tokens.to(activations.device), None if place is None else place.to(activations.device))
        limit = self.norm_limits.get(hook)
        return keep if limit is None else keep & (activations.float().norm(dim=-1) <= limit)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Mask:
        return cls(document["first_position"], tuple(document["special"]), dict(document["norm_limits"]))
