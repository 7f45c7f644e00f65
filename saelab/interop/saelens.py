"""SAELens: a directory with `cfg.json` and `sae_weights.safetensors`.

```
cfg.json                 d_in d_sae dtype device apply_b_dec_to_input normalize_activations reshape_activations
                         architecture metadata{}, and what the architecture adds
sae_weights.safetensors  W_enc [d_in, lat]  W_dec [lat, d_out]  b_dec [d_out], and
                         standard, topk, abstopk: b_enc [lat]         jumprelu: b_enc, threshold [lat]
                         gated: b_gate, b_mag, r_mag [lat]             matching_pursuit: no W_enc
                         transcoders: b_enc, and threshold or W_skip [d_out, d_in] where their names say so
                         checkpoints of batchtopk and matryoshka_batchtopk: b_enc [lat], topk_threshold []
```
Read from sae-lens 6.54.12. It saves BatchTopK and Matryoshka SAEs as `jumprelu`, at the end of training. Before
version 6 a run's whole configuration stood in `cfg.json`, metadata and all; such files are read, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab import __version__
from saelab.errors import SaelabError, did_you_mean
from saelab.files import write_json, write_tensors
from saelab.interop import saelens_legacy
from saelab.interop.origin import Origin, Source
from saelab.interop.parts import Form, Parts, assemble, form_of, refusal
from saelab.interop.reading import Fields, expect_shapes, floating, read_config, read_safetensors, shown, width
from saelab.sae import SAE
from saelab.sae.coders import Gated, OneStep, Pursuit
from saelab.sae.foreign import Format
from saelab.sae.rules import AbsTopK, ReLU, Threshold, TopK

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
VERSION = "6.54.12"
"""The version whose files `write` writes."""


@dataclass(frozen=True)
class Architecture:
    """One of SAELens' architectures.

    Attributes:
        kind: saelab's variant.
        per_latent: tensors `[lat]`: their names there, and in the variant's coder.
        settings: reads what the architecture adds to `cfg.json` -> the variant's settings.
        transcoder, skip, tied: whether it has a target of its own, W_skip, no W_enc.
        rescales: whether its activations may be in units of the decoder's norms.
        threshold: name of a tensor `[]` that all latents share.
    """

    kind: str
    per_latent: Mapping[str, str]
    settings: Callable[[Fields, int], dict[str, Any]] = lambda fields, d_in: {}
    transcoder: bool = False
    skip: bool = False
    tied: bool = False
    rescales: bool = False
    threshold: str | None = None


def _budget(fields: Fields, d_in: int) -> dict[str, Any]:
    return {"k": fields.take("k", int)}


def _mean_budget(fields: Fields, d_in: int) -> dict[str, Any]:
    return {"k": fields.take("k", float)}


def _nested(fields: Fields, d_in: int) -> dict[str, Any]:
    return {"k": fields.take("k", float), "prefixes": fields.take("matryoshka_widths", list)}


def _pursuit(fields: Fields, d_in: int) -> dict[str, Any]:
    return {
        "k": fields.optional("max_iterations", int) or d_in,
        "residual_threshold": max(fields.take("residual_threshold", float, 1e-2), 0.0),
        "ends_at_repeat": fields.take("stop_on_duplicate_support", bool, True),
    }


_BIAS = {"b_enc": "b_enc"}
_JUMP = {"b_enc": "b_enc", "threshold": "rule.threshold"}
_GATE = {name: name for name in ("b_gate", "b_mag", "r_mag")}
ARCHITECTURES: Mapping[str, Architecture] = {
    "standard": Architecture("relu", _BIAS),
    "topk": Architecture("topk", _BIAS, _budget, rescales=True),
    "abstopk": Architecture("abs_topk", _BIAS, _budget, rescales=True),
    "jumprelu": Architecture("jumprelu", _JUMP),
    "gated": Architecture("gated", _GATE),
    "matching_pursuit": Architecture("matching_pursuit", {}, _pursuit, tied=True),
    "batchtopk": Architecture("batch_topk", _BIAS, _mean_budget, rescales=True, threshold="topk_threshold"),
    "matryoshka_batchtopk": Architecture("matryoshka", _BIAS, _nested, rescales=True, threshold="topk_threshold"),
    "transcoder": Architecture("relu", _BIAS, transcoder=True),
    "skip_transcoder": Architecture("relu", _BIAS, transcoder=True, skip=True),
    "jumprelu_transcoder": Architecture("jumprelu", _JUMP, transcoder=True),
    "jumprelu_skip_transcoder": Architecture("jumprelu", _JUMP, transcoder=True, skip=True),
}

_IN_TRAINING = (
    *("decoder_init_norm", "l1_coefficient", "lp_norm", "l1_warm_up_steps", "l0_coefficient", "l0_warm_up_steps"),
    *("jumprelu_init_threshold", "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale"),
    *("jumprelu_ste_to_input", "pre_act_loss_coefficient", "target_l0", "use_sparse_activations"),
    *("aux_loss_coefficient", "topk_threshold_lr", "use_matryoshka_aux_loss"),
)
"""Keys of checkpoints that say how training went on, not what the SAE computes."""
_UNFOLDED: Mapping[str, str] = {
    "expected_average_only_in": "the factor that its inputs are multiplied by is not in these files; "
    "SAELens folds it into the weights at the end of training",
    "covariance_whitening": "the matrix that its inputs are whitened with is not in these files; "
    "SAELens folds it into the weights at the end of training",
}
_TOKEN_SCALES: Mapping[str, str | None] = {
    "none": None,
    "layer_norm": "standard",
    "constant_norm_rescale": "length",
}


def recognises(path: Path) -> bool:
    return (path / WEIGHTS).is_file()


def read(path: Path) -> SAE:
    """The SAE in a directory that SAELens saved.

    Raises:
        SaelabError: damaged, or an SAE that saelab cannot express, with the reason.
    """
    config, weights = path / CONFIG, path / WEIGHTS
    values = read_config(config)
    legacy = saelens_legacy.applies(values, str(config))
    modern = saelens_legacy.modernised(values, str(config)) if legacy else values
    fields = Fields(modern, str(config))
    metadata = fields.section("metadata", {})
    name = fields.take("architecture", str)
    if name not in ARCHITECTURES:
        fix = did_you_mean(name, ARCHITECTURES) or None
        raise SaelabError(f"unknown architecture {shown(name)}", where=str(config), fix=fix)
    architecture = ARCHITECTURES[name]
    d_in, d_sae = width(fields, "d_in"), width(fields, "d_sae")
    d_out = width(fields, "d_out") if architecture.transcoder else d_in
    settings = architecture.settings(fields, d_in)
    usage = _usage(fields, architecture)
    tensors = read_safetensors(weights)
    if legacy:
        tensors = saelens_legacy.without_scaling_factor(tensors, str(weights))
    parts = _parts(architecture, tensors, settings, (d_in, d_sae, d_out), str(weights), usage)
    if usage.rescaled:
        parts = parts.with_unit_rows()
    return assemble(parts, Source("saelens", (config, weights), _origin(metadata, architecture), values))


@dataclass(frozen=True)
class _Usage:
    """How the weights are used.

    Attributes:
        rescaled: activations are in units of the decoder's norms.
        centred: b_dec is subtracted from the input.
        token_scale: saelab's name of the scale of its own that each token is divided by, if any.
    """

    rescaled: bool
    centred: bool
    token_scale: str | None


def _usage(fields: Fields, architecture: Architecture) -> _Usage:
    normalisation = fields.take("normalize_activations", str, "none")
    if normalisation not in _TOKEN_SCALES:
        reason = _UNFOLDED.get(normalisation, "saelab does not know it")
        raise SaelabError(f"normalize_activations is {shown(normalisation)}: {reason}", where=fields.where)
    reshaping = fields.take("reshape_activations", str, "none")
    if reshaping not in ("none", "hook_z"):  # hook_z flattens [heads, d_head], as saelab does with every hook
        raise SaelabError(f"reshape_activations is {shown(reshaping)}, which saelab does not know", where=fields.where)
    dtype = fields.take("dtype", str, "float32")
    if dtype.removeprefix("torch.") not in ("float32", "float64", "float16", "bfloat16"):
        raise SaelabError(f"unknown dtype {shown(dtype)}", where=fields.where)
    usage = _Usage(
        rescaled=architecture.rescales and fields.take("rescale_acts_by_decoder_norm", bool, False),
        centred=fields.take("apply_b_dec_to_input", bool, True),
        token_scale=_TOKEN_SCALES[normalisation],
    )
    fields.ignore("device", *_IN_TRAINING)
    fields.done()
    return usage


def _parts(
    architecture: Architecture,
    found: Mapping[str, Tensor],
    settings: dict[str, Any],
    widths: tuple[int, int, int],
    where: str,
    usage: _Usage,
) -> Parts:
    d_in, d_sae, d_out = widths
    shapes: dict[str, tuple[int, ...]] = {} if architecture.tied else {"W_enc": (d_in, d_sae)}
    shapes |= {"W_dec": (d_sae, d_out), "b_dec": (d_out,), **dict.fromkeys(architecture.per_latent, (d_sae,))}
    shapes |= {"W_skip": (d_out, d_in)} if architecture.skip else {}
    shapes |= {architecture.threshold: ()} if architecture.threshold else {}
    tensors = floating(found, tuple(shapes), where)
    expect_shapes(tensors, shapes, where)
    coder = {ours: tensors[theirs] for theirs, ours in architecture.per_latent.items()}
    if "rule.threshold" in coder:
        coder["rule.threshold"] = coder["rule.threshold"].clamp(min=0.0)  # relu(pre) * (pre > threshold), there
    if architecture.threshold:
        threshold = tensors[architecture.threshold]
        if not threshold > 0:
            raise SaelabError(
                f"{architecture.threshold} is {float(threshold):g}: this SAE selects over a batch, and has no "
                "threshold yet by which to select from one token",
                where=where,
            )
        coder["rule.threshold"] = threshold
    if architecture.tied:
        coder["residual_threshold"] = torch.tensor(settings["residual_threshold"], dtype=tensors["W_dec"].dtype)
        b_dec = (
            tensors["b_dec"] if usage.centred else torch.zeros_like(tensors["b_dec"])
        )  # neither here nor there, then
    else:
        coder["W_enc"], b_dec = tensors["W_enc"].T, tensors["b_dec"]
    return Parts(
        kind=architecture.kind,
        settings=settings,
        coder=coder,
        W_dec=tensors["W_dec"],
        b_dec=b_dec,
        centred=usage.centred or architecture.tied,
        d_in=d_in,
        W_skip=tensors.get("W_skip"),
        transcoder=architecture.transcoder,
        token_scale=usage.token_scale,
    )


def _origin(metadata: Fields, architecture: Architecture) -> Origin:
    one_head = metadata.optional("hook_head_index", int) is not None
    hook = metadata.optional("hook_name", str)
    excluded, positions = metadata.any("exclude_special_tokens"), metadata.any("seqpos_slice")
    return Origin(
        model=metadata.optional("model_name", str),
        hook=None if one_head else hook,
        target_hook=metadata.optional("hook_name_out", str) if architecture.transcoder else None,
        dataset=metadata.optional("dataset_path", str),
        context_length=metadata.optional("context_size", int),
        prepend_bos=metadata.optional("prepend_bos", bool),
        special_tokens=None if excluded is None else bool(excluded),
        first_position=None if positions is None else positions == [1, None],
    )


_NAMES: Mapping[tuple[Form, bool, bool], str] = {
    ((OneStep, ReLU), False, False): "standard",
    ((OneStep, TopK), False, False): "topk",
    ((OneStep, AbsTopK), False, False): "abstopk",
    ((OneStep, Threshold), False, False): "jumprelu",
    ((Gated, None), False, False): "gated",
    ((Pursuit, None), False, False): "matching_pursuit",
    ((OneStep, ReLU), True, False): "transcoder",
    ((OneStep, ReLU), True, True): "skip_transcoder",
    ((OneStep, Threshold), True, False): "jumprelu_transcoder",
    ((OneStep, Threshold), True, True): "jumprelu_skip_transcoder",
}
"""By what an SAE computes, whether it is a transcoder, and whether it has a skip connection."""


def write(sae: SAE, directory: Path) -> None:
    """Write what `SAE.load_from_disk` reads.

    Raises:
        SaelabError: no architecture of SAELens computes this.
    """
    identity = sae.identity
    name = _NAMES.get((form_of(sae), identity.transcoder, identity.skip))
    if name is None and (form_of(sae), False, False) in _NAMES:
        raise refusal(sae, FORMAT.title, f"its transcoders are ReLU or JumpReLU, and this is '{identity.kind}'")
    if name is None:
        raise refusal(sae, FORMAT.title)
    architecture, state = ARCHITECTURES[name], sae.state_dict()
    tensors = {theirs: state[f"coder.{ours}"].expand(sae.n_latents) for theirs, ours in architecture.per_latent.items()}
    tensors |= {"W_dec": state["decoder.W_dec"], "b_dec": state["decoder.b_dec"]}
    tensors |= {} if architecture.tied else {"W_enc": state["coder.W_enc"].T}
    tensors |= {"W_skip": state["decoder.W_skip"]} if architecture.skip else {}
    origin = Origin.of(identity)
    config: dict[str, Any] = {
        "d_in": identity.d_in,
        "d_sae": sae.n_latents,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.coder.centred,
        "normalize_activations": next(key for key, scale in _TOKEN_SCALES.items() if scale == identity.token_scale),
        "reshape_activations": "hook_z" if (origin.hook or "").endswith("hook_z") else "none",
        "metadata": _metadata(sae, origin),
        **({"d_out": identity.d_out} if architecture.transcoder else {}),
        **_WRITTEN_SETTINGS.get(name, lambda sae: {})(sae),
        "architecture": name,
    }
    write_json(directory / CONFIG, config)
    write_tensors(directory / WEIGHTS, tensors)


def _budget_settings(sae: SAE) -> dict[str, Any]:
    rule: Any = sae.coder.rule
    return {"k": rule.k, "rescale_acts_by_decoder_norm": False}


def _pursuit_settings(sae: SAE) -> dict[str, Any]:
    coder: Any = sae.coder
    if coder.selection != "positive":
        raise refusal(sae, FORMAT.title, "it picks by magnitude, and matching pursuit there by the largest correlation")
    return {
        "residual_threshold": float(coder.residual_threshold),
        "max_iterations": coder.steps,
        "stop_on_duplicate_support": coder.ends_at_repeat,
    }


_WRITTEN_SETTINGS: Mapping[str, Callable[[SAE], dict[str, Any]]] = {
    "topk": _budget_settings,
    "abstopk": _budget_settings,
    "matching_pursuit": _pursuit_settings,
}


def _metadata(sae: SAE, origin: Origin) -> dict[str, Any]:
    """What SAELens' own runs and loaders put there, as far as it is known."""
    known = {
        "model_name": origin.model,
        "hook_name": origin.hook,
        "hook_name_out": origin.target_hook,
        "context_size": origin.context_length,
        "prepend_bos": origin.prepend_bos,
        "dataset_path": origin.dataset,
        "exclude_special_tokens": origin.special_tokens,
        "seqpos_slice": None if origin.first_position is None else [1, None] if origin.first_position else [None],
    }
    return {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        **{key: value for key, value in known.items() if value is not None},
        "hook_head_index": None,
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": {},
        "training_architecture": sae.identity.kind,
        "training_architecture_details": sae.identity.settings,
        "saelab_version": __version__,
        "saelab_sha256": sae.sha256(),
        "trained_tokens": sae.identity.provenance.get("trained_tokens"),
    }


FORMAT = Format("SAELens", f"{CONFIG} and {WEIGHTS}", recognises, read, write)
