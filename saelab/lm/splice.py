"""Run a language model with one hook edited: replaced by a reconstruction, shifted, or ablated.

    with splice(lm, hook, reconstruct(sae), mask=mask, tokens=tokens):
        logits = lm.logits(tokens)

A transcoder reads another hook than the one it replaces:

    with splice_from(lm, source, target, transcode(sae), mask=mask, tokens=tokens):
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
EditFrom = Callable[[Tensor, Tensor], Tensor]
"""Maps `[tok, d_source]` of one hook and `[tok, d_hook]` of another (float32) to what replaces the latter."""


@contextmanager
def splice(lm: LanguageModel, hook: Hook, edit: Edit, *, mask: Mask, tokens: Tensor) -> Iterator[None]:
    """While inside, running `lm` on `tokens` (`[context, position]`) applies `edit` at the unmasked
    positions of `hook`."""
    with splice_from(lm, hook, hook, lambda _, value: edit(value), mask=mask, tokens=tokens):
        yield


@contextmanager
def splice_from(
    lm: LanguageModel, source: Hook, hook: Hook, edit: EditFrom, *, mask: Mask, tokens: Tensor
) -> Iterator[None]:
    """The same with an edit that also sees what `source`, an earlier hook, carried in the same pass. Positions
    count that the mask keeps at both hooks.

    Raises:
        SaelabError: on running `lm`, where `source` comes after `hook`.
    """

    def apply(read: Tensor, value: Tensor) -> Tensor:
        keep = mask.keep(tokens, hook.name, value) & mask.keep(tokens, source.name, read)
        edited = value.clone()
        edited[keep] = edit(read[keep].float(), value[keep].float()).to(value.dtype)
        return edited

    with lm.edited_from(source, hook, apply):
        yield


Change = Callable[[SparseCode], SparseCode]
"""What to do to a code before it is decoded: clamp a latent, ablate a set."""


def reconstruct(sae: SAE, change: Change | None = None, *, keep_error: bool = False) -> Edit:
    """The SAE's reconstruction in place of the activation.

    Args:
        sae: in inference form.
        change: what to do to the code before it is decoded.
        keep_error: add what the SAE leaves unexplained, so that only `change` has an effect.
    """
    edit = transcode(sae, change, keep_error=keep_error)
    return lambda x: edit(x, x)


def transcode(sae: SAE, change: Change | None = None, *, keep_error: bool = False) -> EditFrom:
    """What the SAE makes of one hook in place of what another carries; arguments as for `reconstruct`."""

    def edit(x: Tensor, value: Tensor) -> Tensor:
        with torch.no_grad():
            code = sae.encode(x)
            recon = sae.reconstruct(x, code if change is None else change(code))
            return recon + (value - sae.reconstruct(x, code)) if keep_error else recon

    return edit


def add(direction: Tensor, strength: float = 1.0) -> Edit:
    """A multiple of `[d_hook]` added to every activation."""
    return lambda x: x + strength * direction.to(x)


def constant(value: Tensor | float) -> Edit:
    """The same value everywhere: 0 for zero ablation, a `[d_hook]` mean for mean ablation."""
    return lambda x: torch.zeros_like(x) + torch.as_tensor(value).to(x)
