"""Between formats and `SAE`: an inference form's parts, put together and taken apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.interop.origin import Source
from saelab.sae import SAE, io
from saelab.sae.coders import Codebook, Gated, OneStep, Pursuit
from saelab.sae.model import Identity
from saelab.sae.rules import AbsTopK, FeatureActivation, ReLU, Threshold, TopK

Form = tuple[type, type | None]
"""What an inference form computes: the types of its coder and of its rule."""


@dataclass(frozen=True)
class Parts:
    """An inference form as it was read, in saelab's layout: a latent is a row.

    Attributes:
        kind, settings: the variant that it is, with what its inference form needs to know; nothing is said of how
            it was trained.
        coder: its tensors by their names in that variant's coder.
        W_dec: `[lat, d_out]`; b_dec: `[d_out]`; W_skip: `[d_out, d_in]`, where there is one.
        centred: whether the encoder subtracts `b_dec` from the input.
        d_in: width of the input.
        transcoder: whether something else than the input is reconstructed.
        token_scale: which scale of its own each token is divided by, if any (`Identity.token_scale`).
    """

    kind: str
    settings: Mapping[str, Any]
    coder: Mapping[str, Tensor]
    W_dec: Tensor
    b_dec: Tensor
    centred: bool
    d_in: int
    W_skip: Tensor | None = None
    transcoder: bool = False
    token_scale: str | None = None

    def with_unit_rows(self) -> Parts:
        """The same reconstruction from decoder rows of norm 1, codes times their norms: for affine encoders."""
        norms = self.W_dec.norm(dim=1).clamp(min=1e-8)
        coder = {**self.coder, "W_enc": self.coder["W_enc"] * norms[:, None], "b_enc": self.coder["b_enc"] * norms}
        return replace(self, coder=coder, W_dec=self.W_dec / norms[:, None])


def assemble(parts: Parts, source: Source) -> SAE:
    """The SAE of these parts.

    Raises:
        SaelabError: they do not fit together, or hold values that are not finite.
    """
    n_latents, d_out = parts.W_dec.shape
    tensors = {f"coder.{name}": value.contiguous() for name, value in parts.coder.items()}
    tensors |= {"decoder.W_dec": parts.W_dec.contiguous(), "decoder.b_dec": parts.b_dec.contiguous()}
    if parts.W_skip is not None:
        tensors["decoder.W_skip"] = parts.W_skip.contiguous()
    identity = Identity(
        kind=parts.kind,
        settings={"n_latents": n_latents, **parts.settings},
        d_in=parts.d_in,
        d_out=d_out,
        form="inference",
        transcoder=parts.transcoder,
        skip=parts.W_skip is not None,
        centred=parts.centred,
        token_scale=parts.token_scale,
        provenance=source.provenance(),
    )
    return io.restore(identity, tensors, source.files[0], source.files[-1])


def form_of(sae: SAE) -> Form:
    """What the SAE computes, as a key of what a format can write."""
    rule = getattr(sae.coder, "rule", None)
    return type(sae.coder), None if rule is None else type(rule)


_WHAT_THEY_DO: Mapping[Form, str] = {
    (OneStep, ReLU): "keeps every positive pre-activation, however many",
    (OneStep, Threshold): "compares pre-activations with thresholds",
    (OneStep, TopK): "keeps the k largest pre-activations of each token",
    (OneStep, AbsTopK): "keeps the k pre-activations of largest magnitude with their signs",
    (OneStep, FeatureActivation): "keeps as many latents per token as the input's norm asks for",
    (Gated, None): "decides which latents are active by one bias, and how strongly by another",
    (Pursuit, None): "encodes in several steps on the residual",
    (Codebook, None): "adds up decoder rows without coefficients",
}


class CannotHoldError(SaelabError):
    """A format has no form for what an SAE computes."""


def refusal(sae: SAE, title: str, reason: str | None = None) -> CannotHoldError:
    """The error where a format cannot express an SAE, with the reason."""
    form = form_of(sae)
    does = _WHAT_THEY_DO.get(form, f"encodes with {form[0].__name__}")
    reason = reason or f"this '{sae.identity.kind}' {does}, for which it has no form"
    return CannotHoldError(f"{title} cannot hold this SAE: {reason}", where="--format", fix="choose another format")


def check_raw_units(sae: SAE, title: str) -> None:
    """Raise where a format cannot divide each token by its own scale, and the SAE does."""
    if sae.identity.token_scale is not None:
        raise refusal(sae, title, "it divides each token by its own scale, which cannot be folded into the weights")


@torch.no_grad()
def with_centre(sae: SAE, centred: bool) -> SAE:
    """The same function, with the decoder's bias subtracted from the input or not: self where it is so already, else
    a copy whose encoder biases take up `W_enc b_dec`, rounded once.

    For affine encoders of SAEs that reconstruct their input.
    """
    if sae.coder.centred == centred:
        return sae
    changed = copy.deepcopy(sae)
    coder = changed.coder
    shift = -changed.b_dec if centred else changed.b_dec
    coder.centred = False
    coder.fold(shift, 1.0)
    coder.centred = centred
    return changed
