"""Every variant of SAE, by name: one function each, citing its paper, that assembles the parts.

The signature of a function *is* its configuration: `sae: {kind: topk, n_latents: 8192, k: 32}` in YAML
is checked against it. Add one of your own with

    @variant("mine")
    def mine(d_model: int, *, n_latents: int = 8192, ...) -> Blueprint: ...

A variant returns a `Blueprint`: the SAE, the loss terms it trains with (by the names under which
`saelab.objectives` knows them), and whether the decoder's rows are held at unit norm. One whose losses depend
on the width of what is reconstructed takes that as `d_out` as well; `build` turns a variant into a transcoder.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from saelab.errors import SettingError
from saelab.registry import Registry
from saelab.sae.coders import Codebook, Coder, Gated, GroupBias, OneStep, Pursuit, Sampled
from saelab.sae.coders.base import check_n_latents
from saelab.sae.coders.group_bias import group_targets
from saelab.sae.coders.pursuit import Selection
from saelab.sae.model import SAE, Decoder, Identity
from saelab.sae.rules import (
    AbsTopK,
    BatchTopK,
    FeatureActivation,
    FeatureChoice,
    GradientTopK,
    JumpReLU,
    ReLU,
    SelectionRule,
    TopK,
)
from saelab.sae.rules.threshold import Reach


@dataclass(frozen=True)
class LossTerm:
    """One term of the objective, by its name in `saelab.objectives`.

    Attributes:
        kind: the term's name.
        coefficient: its weight.
        warmup_frac: fraction of training over which the weight rises linearly from 0.
        target_l0: where given, the weight is steered so that this many latents are active per token.
        settings: the term's own arguments.
    """

    kind: str
    coefficient: float = 1.0
    warmup_frac: float = 0.0
    target_l0: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Blueprint:
    """A variant put together: `losses[0]` is the reconstruction."""

    sae: SAE
    losses: tuple[LossTerm, ...]
    unit_norm_decoder: bool


VARIANTS: Registry[Callable[..., Blueprint]] = Registry("SAE variant")
variant = VARIANTS.register


_SHORT = 0.3
"""Norm of a transcoder's encoder rows at the start, where its decoder's have norm 1."""
WIDTHS = ("d_model", "d_out")
"""Parameters of a variant that are no settings: the activations say them."""


def build(
    kind: str,
    d_model: int,
    settings: Mapping[str, Any] | None = None,
    d_out: int | None = None,
    *,
    skip: bool = False,
) -> Blueprint:
    """The variant `kind` on activations of width `d_model`, in training form.

    Args:
        d_out: width of another target: a transcoder, even where it equals `d_model`. None: the SAE
            reconstructs its input.
        skip: give a transcoder a linear connection from input to output beside the code.

    Raises:
        SaelabError: an unknown kind, settings that cannot work together, or a variant that can reconstruct
            nothing but its input.
    """
    function = VARIANTS[kind]
    signature = inspect.signature(function)
    width = {"d_out": d_model if d_out is None else d_out} if "d_out" in signature.parameters else {}
    bound = signature.bind(d_model, **width, **(settings or {}))
    bound.apply_defaults()  # written down in full: a default that changes later must not change old SAEs
    blueprint = function(*bound.args, **bound.kwargs)
    identity = blueprint.sae.identity
    identity.kind = kind
    settings = {name: value for name, value in list(bound.arguments.items())[1:] if name not in WIDTHS}
    identity.settings = json.loads(json.dumps(settings))  # as a file gives them back
    if d_out is not None:
        _retarget(blueprint, d_out, skip=skip)
    elif skip:
        raise SettingError("skip", "a skip connection past the code would copy the input", fix="give another target")
    return blueprint


def _retarget(blueprint: Blueprint, d_out: int, *, skip: bool) -> None:
    """Make a transcoder of an SAE that has just been built.

    The input is no longer reduced by the decoder's bias, which is the target's, and the decoder's rows say
    nothing of the encoder's, which lie in another space. Where they are free they start at 0, as does the skip
    connection: the official code of Paulo et al. 2025 (arXiv 2501.18823), which holds no transcoder's decoder at
    unit norm. Where they are held at unit norm they are random directions, and the encoder's rows start short,
    so that here, too, what is reconstructed at first is little more than the mean (ours; from rows of norm 1
    an MLP was learnt more slowly, see README.md).
    """
    sae, identity = blueprint.sae, blueprint.sae.identity
    if sae.coder.bound_to_input is not None:
        raise SettingError(
            "target_hook",
            f"'{identity.kind}' cannot have another target than its input: it {sae.coder.bound_to_input}",
            fix="choose another variant, or leave target_hook out",
        )
    sae.coder.centred = False
    sae.decoder = Decoder(sae.n_latents, d_out, skip_from=identity.d_in if skip else None)
    with torch.no_grad():
        if blueprint.unit_norm_decoder:
            _random_rows(sae.decoder.W_dec, 1.0)
            sae.coder.rescale(torch.full((sae.n_latents,), _SHORT))
        else:
            sae.decoder.W_dec.zero_()
    identity.d_out, identity.transcoder, identity.skip = d_out, True, skip


def assemble(d_model: int, n_latents: int, coder: Coder, *, decoder_norm: float = 1.0) -> SAE:
    """An SAE with this coder, initialised as in the papers: the rows of `W_dec` random directions of norm
    `decoder_norm`, encoder rows equal to them, biases 0 (the trainer sets `b_dec` to the mean).

    Raises:
        SettingError: `decoder_norm` is not positive.
    """
    if decoder_norm <= 0:
        raise SettingError("decoder_norm", f"must be positive, found {decoder_norm}")
    sae = SAE(coder, Decoder(n_latents, d_model), Identity(kind="", settings={}, d_in=d_model, d_out=d_model))
    with torch.no_grad():
        _random_rows(sae.decoder.W_dec, decoder_norm)
        coder.initialise(sae.decoder.W_dec)
    return sae


def _random_rows(rows: Tensor, norm: float) -> None:
    nn.init.normal_(rows)
    rows.mul_(norm / rows.norm(dim=1, keepdim=True))


def one_step(d_model: int, n_latents: int, rule: SelectionRule, *, centred: bool, decoder_norm: float = 1.0) -> SAE:
    """An SAE with an affine encoder and this rule; see `assemble`."""
    coder = OneStep(d_model, n_latents, rule, centred=centred)
    return assemble(d_model, n_latents, coder, decoder_norm=decoder_norm)


# -- settings that several variants share, and what they mean ---------------------------------------------

NLatents = Annotated[int, "width of the dictionary"]
K = Annotated[int, "latents kept per token"]
BatchK = Annotated[float, "latents kept per token, on average over a batch; need not be whole"]
AuxK = Annotated[int | None, "dead latents that learn from the residual, per token (none: about d_model / 2)"]
AuxCoefficient = Annotated[float, "weight of the auxiliary loss; 0 turns it off"]
AuxGamma = Annotated[
    float | None, "teach latents that fire less than this share of what their rank lets expect (none: dead ones only)"
]
TargetL0 = Annotated[float | None, "steer the penalty's weight towards this many active latents (none: fixed weight)"]
Warmup = Annotated[float, "fraction of training over which the penalty rises from 0"]
DecoderNorm = Annotated[float, "norm of the decoder's rows at the start"]


def _not_negative(**coefficients: float) -> None:
    for key, value in coefficients.items():
        if value < 0:
            raise SettingError(key, f"must not be negative, found {value}")


def _fraction(**fractions: float) -> None:
    for key, value in fractions.items():
        if not 0 <= value <= 1:
            raise SettingError(key, f"a fraction lies between 0 and 1, found {value}")


def _aux_width(aux_k: int | None, d_out: int) -> int:
    """The paper's `k_aux`: the power of two nearest half the width of what is reconstructed."""
    if aux_k is not None and aux_k < 1:
        raise SettingError("aux_k", f"aux_k must be at least 1, not {aux_k}", fix="aux_coefficient: 0 turns it off")
    return aux_k or 2 ** round(math.log2(max(d_out, 2) / 2))


def _aux(
    d_out: int,
    aux_k: int | None,
    coefficient: float,
    rule: Callable[[int], SelectionRule] = TopK,
) -> tuple[LossTerm, ...]:
    """AuxK, or nothing where its weight is 0."""
    _not_negative(aux_coefficient=coefficient)
    settings = {"rule": rule(_aux_width(aux_k, d_out))}
    return (LossTerm("auxk", coefficient, settings=settings),) if coefficient > 0 else ()


def _aux_zipf(
    d_out: int, n_latents: int, k: float, aux_k: int | None, coefficient: float, gamma: float | None
) -> tuple[LossTerm, ...]:
    """AuxK for underused latents; for dead ones alone where `gamma` is None."""
    if gamma is None or coefficient == 0:
        return _aux(d_out, aux_k, coefficient)
    _not_negative(aux_coefficient=coefficient)
    rule = TopK(_aux_width(aux_k, d_out))
    return (LossTerm("aux_zipf", coefficient, settings={"rule": rule, "n_latents": n_latents, "k": k, "gamma": gamma}),)


_MSE = LossTerm("normalised_mse")
_SQUARED = LossTerm("sum_squared_error")


# -- the variants -------------------------------------------------------------------------------------------


@variant("topk")
def topk(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    k: K = 32,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
    multi_k: Annotated[int | None, "also train the code with this many latents: Multi-TopK (the paper: 4 k)"] = None,
    multi_coefficient: Annotated[float, "weight of that loss"] = 1 / 8,
) -> Blueprint:
    """TopK (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations of each token.

    Squared error over the batch's variance, plus AuxK and, where `multi_k` is
    given, Multi-TopK; unit-norm decoder; the decoder's bias is subtracted from the input. Deviation: the
    bias starts at the mean, not at the geometric median.
    """
    sae = one_step(d_model, n_latents, TopK(k), centred=True)
    losses = (_MSE, *_aux(d_out or d_model, aux_k, aux_coefficient))
    if multi_k is not None:
        _not_negative(multi_coefficient=multi_coefficient)
        if not k < multi_k <= n_latents:
            raise SettingError("multi_k", f"lies above k = {k} and at most at n_latents = {n_latents}, found {multi_k}")
        losses += (LossTerm("other_rule_mse", multi_coefficient, settings={"rule": TopK(multi_k)}),)
    return Blueprint(sae, losses, unit_norm_decoder=True)


@variant("abs_topk")
def abs_topk(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    k: K = 32,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
) -> Blueprint:
    """AbsTopK (arXiv 2510.00404): the k pre-activations of largest magnitude, sign kept.

    A signed latent can hold both poles of a concept. Trained as TopK; dead latents are ranked by
    magnitude in the auxiliary loss. Deviations: the decoder's bias is subtracted from the input, and there
    is an auxiliary loss; the paper has neither. The encoder is untied, as in its practice.
    """
    sae = one_step(d_model, n_latents, AbsTopK(k), centred=True)
    return Blueprint(sae, (_MSE, *_aux(d_out or d_model, aux_k, aux_coefficient, AbsTopK)), unit_norm_decoder=True)


@variant("batch_topk")
def batch_topk(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    k: BatchK = 32,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
) -> Blueprint:
    """BatchTopK (Bussmann et al. 2024, arXiv 2412.06410): the k * tokens largest pre-activations of a batch.

    Tokens may have more or fewer active latents. Trained as TopK; deployed with one threshold. Deviation:
    inputs are scaled as everywhere in saelab, not standardised one by one, and the encoder has a bias.
    """
    sae = one_step(d_model, n_latents, BatchTopK(k), centred=True)
    return Blueprint(sae, (_MSE, *_aux(d_out or d_model, aux_k, aux_coefficient)), unit_norm_decoder=True)


@variant("matryoshka")
def matryoshka(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    k: BatchK = 32,
    prefixes: Annotated[
        tuple[int, ...] | None,
        "sizes of the nested dictionaries, from k or more up to n_latents (none: 1/16, 1/8, 1/4, 1/2 and all of them)",
    ] = None,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
) -> Blueprint:
    """Matryoshka BatchTopK (Bussmann et al. 2025, arXiv 2503.17547): nested dictionaries, each to do alone.

    One BatchTopK code; the loss is the mean over prefixes of the error with the prefix's latents only, plus
    AuxK. Early latents become general, later ones specific. Deviation: fixed prefixes of equal weight, not
    random ones.
    """
    check_n_latents(n_latents)
    sizes = tuple(prefixes) if prefixes is not None else _halvings(n_latents, k)
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[-1] != n_latents:
        raise SettingError("prefixes", f"rise strictly and end at n_latents = {n_latents}, found {list(sizes)}")
    if sizes[0] < k:
        raise SettingError(
            "k",
            f"k = {k} is larger than the prefix of {sizes[0]} latents",
            fix="lower k, or start with a larger prefix",
        )
    sae = one_step(d_model, n_latents, BatchTopK(k), centred=True)
    losses = (LossTerm("prefix_mse", settings={"prefixes": sizes}), *_aux(d_out or d_model, aux_k, aux_coefficient))
    return Blueprint(sae, losses, unit_norm_decoder=True)


def _halvings(n_latents: int, k: float) -> tuple[int, ...]:
    sizes = {n_latents // part for part in (16, 8, 4, 2)}
    return (*sorted(size for size in sizes if size >= k), n_latents)


@variant("mutual_choice")
def mutual_choice(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    k: BatchK = 32,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
    aux_gamma: AuxGamma = 0.2,
) -> Blueprint:
    """Mutual Choice (arXiv 2411.02124): the k * tokens strongest token-latent pairs of a batch.

    Selection is BatchTopK's; the auxiliary loss teaches all underused latents, by Zipf's law (our reading of
    the paper's aux_zipf_loss, whose formula is not public). Deployed with one threshold.
    """
    sae = one_step(d_model, n_latents, BatchTopK(k), centred=True)
    losses = (_MSE, *_aux_zipf(d_out or d_model, n_latents, k, aux_k, aux_coefficient, aux_gamma))
    return Blueprint(sae, losses, unit_norm_decoder=True)


@variant("feature_choice")
def feature_choice(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    k: BatchK = 32,
    quotas: Annotated[Literal["uniform", "zipf"], "each latent's share of a batch's k * tokens places"] = "zipf",
    mutual_frac: Annotated[float, "first fraction of training that selects over the whole batch"] = 0.3,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
    aux_gamma: AuxGamma = 0.2,
) -> Blueprint:
    """Feature Choice (arXiv 2411.02124): each latent keeps its own strongest tokens of a batch, by quota.

    No latent starves. Begins as Mutual Choice, from which Zipf quotas are measured; `quotas: uniform` with
    `mutual_frac: 0` is Feature Choice from the start. Deployed with a threshold per latent. Needs
    k * batch_tokens >= n_latents. When the phase changes, and how the curve is fitted, are ours.
    """
    rule = FeatureChoice(k, zipf=quotas == "zipf", mutual_frac=mutual_frac)
    sae = one_step(d_model, n_latents, rule, centred=True)
    losses = (_MSE, *_aux_zipf(d_out or d_model, n_latents, k, aux_k, aux_coefficient, aux_gamma))
    return Blueprint(sae, losses, unit_norm_decoder=True)


@variant("gradient_topk")
def gradient_topk(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    k: K = 32,
    beta: Annotated[float, "weight of a latent's effect on the loss in the ranking; 0 is plain TopK"] = 1.0,
    normalise: Annotated[bool, "measure effects in units of their running mean, so that beta has no unit"] = True,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
) -> Blueprint:
    """Gradient SAE (arXiv 2411.10397): TopK ranked by activation and first-order effect on the model's loss.

    Training needs gradients in the store (`activations: {loss_grad: true}`); deployed as plain TopK without
    them. The training form on stored gradients is the oracle mode: it has seen the next token, so its codes
    are no probe features. Trained as TopK.
    """
    sae = one_step(d_model, n_latents, GradientTopK(k, beta, normalise=normalise), centred=True)
    return Blueprint(sae, (_MSE, *_aux(d_out or d_model, aux_k, aux_coefficient)), unit_norm_decoder=True)


@variant("top_afa")
def top_afa(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    afa_coefficient: Annotated[float, "weight of the loss that ties code norms to input norms; sets L0"] = 1 / 32,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
) -> Blueprint:
    """top-AFA (arXiv 2503.24277): as many latents per token as bring the code's norm closest to the input's.

    No k: sparsity follows from `afa_coefficient`, and can be far from sparse (the paper's own runs keep more
    latents than d_model). Deviations: squared error over the batch's variance stands for the mean over
    dimensions of standardised inputs, which it equals for inputs of mean square norm d_model; both parts
    of the method use the centred input.
    """
    _not_negative(afa_coefficient=afa_coefficient)
    sae = one_step(d_model, n_latents, FeatureActivation(), centred=True)
    afa = LossTerm("afa", afa_coefficient)
    return Blueprint(sae, (_MSE, afa, *_aux(d_out or d_model, aux_k, aux_coefficient)), unit_norm_decoder=True)


@variant("relu")
def relu(
    d_model: int,
    *,
    n_latents: NLatents = 8192,
    l1: Annotated[float, "weight of the penalty; presumes inputs of mean norm sqrt(d_model)"] = 5.0,
    l1_warmup_frac: Warmup = 0.05,
    target_l0: TargetL0 = None,
    p_end: Annotated[float, "where p of an L_p penalty falls to: p-annealing (1: plain L1)"] = 1.0,
    p_start_frac: Annotated[float, "fraction of training before p falls"] = 0.3,
    p_updates: Annotated[int, "steps in which it falls"] = 10,
    decoder_norm: DecoderNorm = 0.1,
) -> Blueprint:
    """ReLU with an L1 penalty weighted by decoder norms (Anthropic, April 2024 update).

    `mean ||x - recon||^2 + l1 * mean sum_i z_i ||d_i||`; unconstrained decoder, the decoder's bias is not
    subtracted from the input. The published settings; L0 depends on `l1`, the data and the width, unless
    `target_l0` steers it. `p_end` below 1 anneals the penalty to L_p (arXiv 2408.00113).
    """
    _not_negative(l1=l1)
    _fraction(l1_warmup_frac=l1_warmup_frac)
    sae = one_step(d_model, n_latents, ReLU(), centred=False, decoder_norm=decoder_norm)
    penalty = LossTerm("l1", l1, l1_warmup_frac, target_l0)
    if p_end != 1:
        settings = {"p_end": p_end, "start_frac": p_start_frac, "updates": p_updates}
        penalty = LossTerm("annealed_lp", l1, l1_warmup_frac, target_l0, settings)
    return Blueprint(sae, (_SQUARED, penalty), unit_norm_decoder=False)


@variant("jumprelu")
def jumprelu(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    penalty: Annotated[
        Literal["l0_target", "l0", "tanh"],
        "l0_target: squared relative distance to target_l0; l0, tanh: their mean, steered by target_l0 if given",
    ] = "l0_target",
    coefficient: Annotated[float | None, "weight of the penalty (none: 10 d_out for l0_target, else 10)"] = None,
    target_l0: Annotated[float | None, "active latents wanted per token"] = 32.0,
    warmup_frac: Warmup = 0.1,
    tanh_c: Annotated[float, "steepness of the tanh penalty"] = 4.0,
    threshold: Annotated[float, "thresholds at the start, in units of scaled inputs"] = 2.0,
    bandwidth: Annotated[float, "width of the window around a threshold in which it learns"] = 0.5,
    reach: Annotated[Reach, "whether the window's gradient reaches thresholds alone, or all weights"] = "threshold",
    pre_act: Annotated[float, "weight of the loss that lifts pre-activations below their threshold; 0: off"] = 3e-6,
    pre_act_on: Annotated[Literal["dead", "all"], "which latents it lifts"] = "dead",
    decoder_norm: DecoderNorm = 1.0,
) -> Blueprint:
    """JumpReLU (Rajamanoharan et al. 2024, arXiv 2407.14435): a learned threshold per latent, an L0 penalty.

    `penalty: tanh`, `target_l0: null`, `reach: all`, `pre_act_on: all`, `bandwidth: 2`, `threshold: 0.1`,
    `warmup_frac: 1` are the losses of Anthropic's January 2025 update (not its initialisation). Deviations:
    the threshold itself is learned, in units of the input's norm, not its logarithm; it and the bandwidth
    start larger than in the paper, whose inputs have mean square norm 1 (here d_model); the decoder is not
    held at unit norm.
    """
    _not_negative(pre_act=pre_act, tanh_c=tanh_c)
    _fraction(warmup_frac=warmup_frac)
    if coefficient is None:
        coefficient = 10.0 * (d_out or d_model) if penalty == "l0_target" else 10.0
    _not_negative(coefficient=coefficient)
    rule = JumpReLU(threshold, bandwidth, reach, unit=d_model**0.5)
    sae = one_step(d_model, n_latents, rule, centred=False, decoder_norm=decoder_norm)
    if penalty == "l0_target":
        if target_l0 is None:
            raise SettingError("target_l0", "penalty: l0_target needs one", fix="target_l0: 32, or penalty: l0")
        sparsity = LossTerm("l0_target", coefficient, warmup_frac, settings={"l0": target_l0})
    else:
        settings = {"c": tanh_c} if penalty == "tanh" else {}
        sparsity = LossTerm(penalty, coefficient, warmup_frac, target_l0, settings)
    lift = (LossTerm("pre_act", pre_act, settings={"on": pre_act_on}),) if pre_act > 0 else ()
    return Blueprint(sae, (_SQUARED, sparsity, *lift), unit_norm_decoder=False)


@variant("gated")
def gated(
    d_model: int,
    *,
    n_latents: NLatents = 8192,
    l1: Annotated[float, "weight of the L1 penalty on the gate"] = 5.0,
    l1_warmup_frac: Warmup = 0.05,
    target_l0: TargetL0 = None,
) -> Blueprint:
    """Gated (Rajamanoharan et al. 2024, arXiv 2404.16014): one path decides which latents, one how strongly.

    `mean ||x - recon||^2 + l1 * mean sum relu(gate) + mean ||x - recon(relu(gate))||^2`, the last with the
    decoder held fixed; unit-norm decoder, the decoder's bias is subtracted from the input.
    """
    _not_negative(l1=l1)
    _fraction(l1_warmup_frac=l1_warmup_frac)
    sae = assemble(d_model, n_latents, Gated(d_model, n_latents))
    penalty = LossTerm("gate_l1", l1, l1_warmup_frac, target_l0)
    return Blueprint(sae, (_SQUARED, penalty, LossTerm("gate_reconstruction")), unit_norm_decoder=True)


@variant("matching_pursuit")
def matching_pursuit(
    d_model: int,
    *,
    n_latents: NLatents = 8192,
    k: Annotated[int, "pursuit steps: latents picked per token at most"] = 32,
    selection: Annotated[
        Selection, "by the largest correlation while positive, or by the largest magnitude"
    ] = "positive",
    residual_threshold: Annotated[float, "stop once the residual is this short, in units of scaled inputs"] = 0.0,
    ends_at_repeat: Annotated[bool, "also stop at the first latent picked twice, as the official code does"] = False,
    revive: Annotated[float, "weight of the loss that turns dead rows towards the residual; 0: off"] = 1e-2,
) -> Blueprint:
    """MP-SAE (Costa et al. 2025, arXiv 2506.03093): matching pursuit on the residual, unit rows, no encoder.

    `mean ||x - recon||^2` plus the revival of dead rows. `sae.coder.steps` may be set to any number at
    inference. Deviation: non-positive correlations end a pursuit (`selection: positive`), as in the official
    code; the paper does not clip them, which differs at the first step alone.
    """
    _not_negative(revive=revive)
    coder = Pursuit(
        n_latents, k, selection=selection, residual_threshold=residual_threshold, ends_at_repeat=ends_at_repeat
    )
    sae = assemble(d_model, n_latents, coder)
    dead = (LossTerm("revive", revive),) if revive > 0 else ()
    return Blueprint(sae, (_SQUARED, *dead), unit_norm_decoder=True)


@variant("variational")
def variational(
    d_model: int,
    *,
    d_out: int | None = None,
    n_latents: NLatents = 8192,
    base: Annotated[Literal["relu", "topk"], "the rule after sampling"] = "topk",
    k: Annotated[int, "latents kept per token, where base is topk"] = 32,
    variance: Annotated[
        Literal["fixed", "learned"], "one standard deviation for all, or a second encoder head"
    ] = "fixed",
    noise: Annotated[float, "the standard deviation, where it is fixed; 0: none is drawn"] = 1.0,
    kl: Annotated[float, "weight of the KL to N(0, 1), summed over all latents, beside the summed squared error"] = 0.1,
    kl_warmup_frac: Warmup = 0.1,
    aux_k: AuxK = None,
    aux_coefficient: AuxCoefficient = 1 / 32,
) -> Blueprint:
    """Variational SAE (arXiv 2509.22994): codes are drawn around the encoder's output, a KL draws them to 0.

    The noise comes before the rule; inference takes the mean. The KL sees every latent, so training is dense.
    The aux loss is TopK's. Deviations: the official code draws nothing where the variance is fixed, clamps
    means at 10, leaves the decoder free and sums errors over dimensions; here rows have norm 1, and error
    and KL are both divided by d_out, which leaves the meaning of `kl` as it is.
    """
    _not_negative(kl=kl)
    _fraction(kl_warmup_frac=kl_warmup_frac)
    drawn = None if variance == "learned" else noise
    if drawn == 0 and kl > 0:
        raise SettingError(
            "kl", "a KL needs a variance, and noise: 0 has none", fix="kl: 0, a noise above 0, or variance: learned"
        )
    rule = TopK(k) if base == "topk" else ReLU()
    sae = assemble(d_model, n_latents, Sampled(d_model, n_latents, rule, centred=True, noise=drawn))
    divergence = (LossTerm("kl", kl / (d_out or d_model), kl_warmup_frac),) if kl > 0 else ()
    return Blueprint(sae, (_MSE, *divergence, *_aux(d_out or d_model, aux_k, aux_coefficient)), unit_norm_decoder=True)


@variant("group_bias")
def group_bias(
    d_model: int,
    *,
    n_latents: NLatents = 8192,
    groups: Annotated[int, "groups of latents with a target frequency each"] = 10,
    highest: Annotated[float, "target frequency of the first group"] = 0.1,
    lowest: Annotated[float, "target frequency of the last group"] = 1e-3,
    l0: Annotated[float | None, "scale the frequencies so that they add up to this L0 (none: as they are)"] = 32.0,
    rate: Annotated[float, "step of the biases, as a share of a latent's peak"] = 0.01,
    period_tokens: Annotated[int, "tokens between updates of the biases"] = 25_600,
    bound: Annotated[float, "largest negative bias, in units of the input's norm"] = 1.0,
    warm_start: Annotated[bool, "begin with biases at which the first batch fires as often as wanted"] = True,
) -> Blueprint:
    """Group bias adaptation (arXiv 2506.14002): tied encoder, biases steered to target firing frequencies.

    `mean ||x - recon||^2` alone, no penalty; no gradient reaches the biases. Deviations: frequencies are
    scaled to a chosen L0 (the paper's own give several hundred), bounds to the input's norm, and the biases
    start warm.
    """
    targets = group_targets(n_latents, groups, highest, lowest, l0)
    coder = GroupBias(d_model, targets, rate=rate, period_tokens=period_tokens, bound=bound, warm_start=warm_start)
    return Blueprint(assemble(d_model, n_latents, coder), (_SQUARED,), unit_norm_decoder=True)


@variant("codebook")
def codebook(
    d_model: int,
    *,
    n_latents: NLatents = 8192,
    k: Annotated[int, "rows added up per token"] = 8,
) -> Blueprint:
    """Codebook features (Tamkin et al. 2023, arXiv 2310.17230): the sum of the k rows nearest by cosine.

    No coefficients: what a discrete, magnitude-free code costs. Rows start at norm sqrt(d_model / k).
    Deviation: trained on stored activations for `mean ||x - recon||^2`, not inside a fine-tuned model.
    """
    coder = Codebook(n_latents, k)
    sae = assemble(d_model, n_latents, coder, decoder_norm=(d_model / k) ** 0.5)
    return Blueprint(sae, (_SQUARED,), unit_norm_decoder=False)
