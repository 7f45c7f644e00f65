"""Contexts through the language model: what is kept of them, for a store and for a stream alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saelab.activations.store import Contexts, loss_grad_name
from saelab.errors import SaelabError
from saelab.lm.mask import Mask
from saelab.lm.model import Hook, LanguageModel
from saelab.lm.windows import Window


def pad(windows: Sequence[Window], context_length: int) -> Contexts:
    """Windows as one batch. Padding sits on the right, where a causal model's earlier positions cannot see it."""
    shape = (len(windows), context_length)
    tokens, documents = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    for row, window in enumerate(windows):
        tokens[row, : len(window.tokens)] = window.tokens
        documents[row, : len(window.tokens)] = window.documents
    length = torch.tensor([len(window.tokens) for window in windows], dtype=torch.int32)
    return Contexts(torch.from_numpy(tokens), torch.from_numpy(documents), length)


@dataclass(frozen=True)
class Forward:
    """The pass of a batch of contexts: `run` it, see what to `keep`, take those `rows`.

    Attributes:
        lm: the language model.
        hooks: where it is read, all in one pass that stops after the last of them.
        dtype: of the rows.
        loss_grad: whether the gradients of the summed next-token loss are wanted too (`loss_grad_name` names them).
    """

    lm: LanguageModel
    hooks: Sequence[Hook]
    dtype: torch.dtype
    loss_grad: bool = False

    def run(self, contexts: Contexts) -> dict[str, Tensor]:
        """By name, `[context, position, d_hook]` where and as the model gives them."""
        tokens = contexts.tokens.long()
        if not self.loss_grad:
            return self.lm.capture(tokens, self.hooks)
        activations, gradients = self.lm.capture_with_loss_grad(tokens, contexts.length, self.hooks)
        return activations | {loss_grad_name(name): value for name, value in gradients.items()}

    def keep(self, contexts: Contexts, values: Mapping[str, Tensor], mask: Mask) -> Tensor:
        """`[context, position]`: whether every hook keeps it, so that rows of all hooks belong to the same tokens."""
        device = values[self.hooks[0].name].device
        tokens = contexts.tokens.to(device)
        keep = torch.arange(tokens.shape[1], device=device) < contexts.length.to(device)[:, None]
        for hook in self.hooks:
            keep = keep & mask.keep(tokens, hook.name, values[hook.name])
        return keep

    def rows(self, values: Mapping[str, Tensor], keep: Tensor) -> dict[str, Tensor]:
        """By name, `[tok, d_hook]` in memory: what is kept, in order of context and position.

        Raises:
            SaelabError: some of it is not finite.
        """
        rows = {name: value[keep].to(self.dtype).cpu() for name, value in values.items()}
        for hook in self.hooks:
            self._check_finite(f"activations at {hook.name}", rows[hook.name])
            if self.loss_grad:
                self._check_finite(f"gradients at {hook.name}", rows[loss_grad_name(hook.name)])
        return rows

    def _check_finite(self, what: str, values: Tensor) -> None:
        ends = values.aminmax() if values.numel() else ()  # twenty times as fast as asking every one
        if not all(torch.isfinite(end) for end in ends):
            raise SaelabError(
                f"the model's {what} are not all finite",
                where=self.lm.identity["name"],
                fix="try model.dtype: float32",
            )
