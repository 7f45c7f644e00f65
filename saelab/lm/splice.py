"""Run a language model with one hook edited: replaced by a reconstruction, shifted, or ablated.

    with splice(lm, hook, reconstruct(sae), mask=mask, tokens=tokens):
        logits = lm.logits(tokens)

Positions that the mask leaves out keep their original activation, whatever the edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from saelab.lm.mask import Mask
from saelab.lm.model import Hook, LanguageModel
from saelab.sae import SAE, SparseCode

Edit = Callable[[Tensor], Tensor]
"""Maps `[tok, d_hook]` activations (float32) to what replaces them."""


@contextmanager
def splice(lm: LanguageModel, hook: Hook, edit: Edit, *, mask: Mask, tokens: Tensor) -> Iterator[None]:
    """While inside, running `lm` on `tokens` (`[context, position]`) applies `edit` at the unmasked
    positions of `hook`."""

    def apply(value: Tensor) -> Tensor:
        keep = mask.keep(tokens, hook.name, value)
        edited = value.clone()
        edited[keep] = edit(value[keep].float()).to(value.dtype)
        return edited

    with lm.edited(hook, apply):
        yield


def reconstruct(
    sae: SAE, change: Callable[[SparseCode], SparseCode] | None = None, *, keep_error: bool = False
) -> Edit:
    """The SAE's reconstruction in place of the activation.

    Args:
        sae: in inference form.
        change: what to do to the code before it is decoded (clamp a latent, ablate a set).
        keep_error: add what the SAE leaves unexplained, so that only `change` has an effect.
    """

    def edit(x: Tensor) -> Tensor:
        with torch.no_grad():
            code = sae.encode(x)
            recon = sae.decode(code if change is None else change(code))
            return recon + (x - sae.decode(code)) if keep_error else recon

    return edit


def add(direction: Tensor, strength: float = 1.0) -> Edit:
    """A multiple of `[d_hook]` added to every activation."""
    return lambda x: x + strength * direction.to(x)


def constant(value: Tensor | float) -> Edit:
    """The same value everywhere: 0 for zero ablation, a `[d_hook]` mean for mean ablation."""
    return lambda x: torch.zeros_like(x) + torch.as_tensor(value).to(x)
