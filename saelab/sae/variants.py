"""Every variant of SAE, by name: one function each, citing its paper, that assembles the parts.

The signature of a function *is* its configuration: `sae: {kind: topk, n_latents: 8192, k: 32}` in YAML
is checked against it. Add one of your own with

    @variant("mine")
    def mine(d_model: int, *, n_latents: int = 8192, ...) -> Blueprint: ...

A variant returns a `Blueprint`: the SAE, the loss terms it trains with (by the names under which
`saelab.objectives` knows them), and whether the decoder's rows are held at unit norm.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import nn

from saelab.errors import SettingError
from saelab.registry import Registry
from saelab.sae.coders import OneStep
from saelab.sae.model import SAE, Decoder, Identity
from saelab.sae.rules import AbsTopK, ReLU, SelectionRule, TopK


@dataclass(frozen=True)
class LossTerm:
    """One term of the objective, by its name in `saelab.objectives`.

    Attributes:
        kind: the term's name.
        coefficient: its weight.
        warmup_frac: fraction of training over which the weight rises linearly from 0.
        settings: the term's own arguments.
    """

    kind: str
    coefficient: float = 1.0
    warmup_frac: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Blueprint:
    """A variant put together: `losses[0]` is the reconstruction."""

    sae: SAE
    losses: tuple[LossTerm, ...]
    unit_norm_decoder: bool


VARIANTS: Registry[Callable[..., Blueprint]] = Registry("SAE variant")
variant = VARIANTS.register


def build(kind: str, d_model: int, settings: Mapping[str, Any] | None = None) -> Blueprint:
    """The variant `kind` on activations of width `d_model`.

    Raises:
        SaelabError: an unknown kind, or settings that cannot work together.
    """
    function = VARIANTS[kind]
    bound = inspect.signature(function).bind(d_model, **(settings or {}))
    bound.apply_defaults()  # written down in full: a default that changes later must not change old SAEs
    blueprint = function(*bound.args, **bound.kwargs)
    blueprint.sae.identity.kind = kind
    blueprint.sae.identity.settings = dict(bound.kwargs)
    return blueprint


def one_step(d_model: int, n_latents: int, rule: SelectionRule, *, centred: bool, decoder_norm: float = 1.0) -> SAE:
    """An SAE with an affine encoder, initialised as in the papers: the rows of `W_dec` random directions
    of norm `decoder_norm`, `W_enc` equal to `W_dec`, biases 0 (the trainer sets `b_dec` to the mean)."""
    sae = SAE(
        OneStep(d_model, n_latents, rule, centred=centred),
        Decoder(n_latents, d_model),
        Identity(kind="", settings={}, d_in=d_model, d_out=d_model),
    )
    with torch.no_grad():
        nn.init.normal_(sae.decoder.W_dec)
        sae.decoder.W_dec.mul_(decoder_norm / sae.decoder.W_dec.norm(dim=1, keepdim=True))
        sae.coder.W_enc.copy_(sae.decoder.W_dec)
    return sae


NLatents = Annotated[int, "width of the dictionary"]
K = Annotated[int, "latents kept per token"]
AuxK = Annotated[int | None, "dead latents that learn from the residual, per token (none: about d_model / 2)"]
AuxCoefficient = Annotated[float, "weight of the auxiliary loss; 0 turns it off"]


def _with_aux(main: LossTerm, aux: LossTerm) -> tuple[LossTerm, ...]:
    if aux.coefficient < 0:
        raise SettingError("aux_coefficient", f"must not be negative, found {aux.coefficient}")
    return (main, aux) if aux.coefficient > 0 else (main,)


def _aux_width(aux_k: int | None, d_model: int) -> int:
    """The paper's `k_aux`: the power of two nearest `d_model / 2`."""
    if aux_k is not None and aux_k < 1:
        raise SettingError("aux_k", f"aux_k must be at least 1, not {aux_k}", fix="aux_coefficient: 0 turns it off")
    return aux_k or 2 ** round(math.log2(max(d_model, 2) / 2))


@variant("topk")
def topk(
    d_model: int,
    *,
    n_latents: NLatents = 8192,
    k: K = 32,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
) -> Blueprint:
    """TopK (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations of each token.

    Squared error over the batch's variance, plus AuxK (the paper's appendix A.2); unit-norm decoder;
    the decoder's bias is subtracted from the input. Deviation: the bias starts at the mean, not at the
    geometric median.
    """
    sae = one_step(d_model, n_latents, TopK(k), centred=True)
    aux = LossTerm("auxk", aux_coefficient, settings={"rule": TopK(_aux_width(aux_k, d_model))})
    return Blueprint(sae, _with_aux(LossTerm("normalised_mse"), aux), unit_norm_decoder=True)


@variant("abs_topk")
def abs_topk(
    d_model: int,
    *,
    n_latents: NLatents = 8192,
    k: K = 32,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
) -> Blueprint:
    """AbsTopK (arXiv 2510.00404): the k pre-activations of largest magnitude, sign kept.

    A signed latent can hold both poles of a concept. Trained as TopK; dead latents are ranked by
    magnitude in the auxiliary loss. Deviation: encoder untied, as in practice; tied in the derivation.
    """
    sae = one_step(d_model, n_latents, AbsTopK(k), centred=True)
    aux = LossTerm("auxk", aux_coefficient, settings={"rule": AbsTopK(_aux_width(aux_k, d_model))})
    return Blueprint(sae, _with_aux(LossTerm("normalised_mse"), aux), unit_norm_decoder=True)


@variant("relu")
def relu(
    d_model: int,
    *,
    n_latents: NLatents = 8192,
    l1: Annotated[float, "weight of the L1 penalty; presumes inputs of mean norm sqrt(d_model)"] = 5.0,
    l1_warmup_frac: Annotated[float, "fraction of training over which the penalty rises from 0"] = 0.05,
    decoder_norm: Annotated[float, "norm of the decoder's rows at the start"] = 0.1,
) -> Blueprint:
    """ReLU with an L1 penalty weighted by decoder norms (Anthropic, April 2024 update).

    `mean ||x - recon||^2 + l1 * mean sum_i z_i ||d_i||`; unconstrained decoder, the decoder's bias is not
    subtracted from the input. The published settings; L0 depends on `l1`, the data and the width.
    """
    if l1 < 0:
        raise SettingError("l1", f"l1 must not be negative, found {l1}")
    if not 0 <= l1_warmup_frac <= 1:
        raise SettingError("l1_warmup_frac", f"a fraction lies between 0 and 1, found {l1_warmup_frac}")
    sae = one_step(d_model, n_latents, ReLU(), centred=False, decoder_norm=decoder_norm)
    penalty = LossTerm("l1", l1, l1_warmup_frac)
    return Blueprint(sae, (LossTerm("sum_squared_error"), penalty), unit_norm_decoder=False)
