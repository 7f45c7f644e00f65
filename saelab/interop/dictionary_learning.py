"""dictionary_learning (Marks, Karvonen, Mueller): `ae.pt`, a state dictionary, and `config.json`.

```
config.json  {"trainer": {"dict_class", "activation_dim", "dict_size", "k", "lm_name", "layer", ...}, "buffer": {...}}
ae.pt        AutoEncoder            bias [d]  encoder.weight [lat, d]  encoder.bias [lat]  decoder.weight [d, lat]
             AutoEncoderNew         encoder.weight  encoder.bias  decoder.weight  decoder.bias [d]
             GatedAutoEncoder       decoder_bias [d]  encoder.weight  decoder.weight  r_mag, gate_bias, mag_bias [lat]
             AutoEncoderTopK        encoder.weight  encoder.bias  decoder.weight  b_dec [d]  k []  threshold []
             BatchTopKSAE           as AutoEncoderTopK
             JumpReluAutoEncoder    W_enc [d, lat]  b_enc [lat]  W_dec [lat, d]  b_dec [d]  threshold [lat]
             MatryoshkaBatchTopKSAE W_enc  b_enc  W_dec  b_dec  k []  threshold []  group_sizes [groups]
```
All but AutoEncoderNew and JumpReluAutoEncoder subtract their bias from the input. Read from version 0.1.0 and from
the repository as of August 2025. `threshold` is negative until training has found one. AutoEncoderTopK encodes by k
whatever it is (`use_threshold` is off there), the other two by the threshold alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.errors import SaelabError, did_you_mean
from saelab.files import write_json
from saelab.interop.origin import Origin, Source
from saelab.interop.parts import Form, Parts, assemble, check_raw_units, form_of, refusal, with_centre
from saelab.interop.reading import (
    Fields,
    expect_names,
    expect_shapes,
    floating,
    read_config,
    read_pickled,
    shown,
    width,
)
from saelab.sae import SAE, variants
from saelab.sae.coders import Gated, OneStep
from saelab.sae.foreign import Format
from saelab.sae.rules import ReLU, Threshold, TopK

WEIGHTS = "ae.pt"
CONFIG = "config.json"

_LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec"}
_ROWS = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


@dataclass(frozen=True)
class DictClass:
    """One of its classes.

    Attributes:
        kind: saelab's variant.
        names: its tensors, and what they are here: W_dec, b_dec, or of the variant's coder. Names with `weight` are
            of `nn.Linear`, `[out, in]`; the others are transposed to that.
        centred: whether the bias is subtracted from the input.
        budget: whether it has k, and one threshold for all latents; nested: whether it has sizes of groups.
        by_threshold: whether that threshold decides what is active, not k.
    """

    kind: str
    names: Mapping[str, str]
    centred: bool = True
    budget: bool = False
    nested: bool = False
    by_threshold: bool = False


_WITH_K = _LINEAR | {"encoder.bias": "b_enc", "b_dec": "b_dec"}
CLASSES: Mapping[str, DictClass] = {
    "AutoEncoder": DictClass("relu", _LINEAR | {"encoder.bias": "b_enc", "bias": "b_dec"}),
    "AutoEncoderNew": DictClass("relu", _LINEAR | {"encoder.bias": "b_enc", "decoder.bias": "b_dec"}, centred=False),
    "GatedAutoEncoder": DictClass(
        "gated",
        _LINEAR | {"decoder_bias": "b_dec", "r_mag": "r_mag", "gate_bias": "b_gate", "mag_bias": "b_mag"},
    ),
    "JumpReluAutoEncoder": DictClass("jumprelu", _ROWS | {"threshold": "rule.threshold"}, centred=False),
    "AutoEncoderTopK": DictClass("topk", _WITH_K, budget=True),
    "BatchTopKSAE": DictClass("batch_topk", _WITH_K, budget=True, by_threshold=True),
    "MatryoshkaBatchTopKSAE": DictClass("matryoshka", _ROWS, budget=True, nested=True, by_threshold=True),
}
_IN_TRAINING = (
    *("trainer_class", "wandb_name", "device", "seed", "steps", "lr", "warmup_steps", "decay_start", "norm_factor"),
    *("l1_penalty", "sparsity_penalty", "sparsity_warmup_steps", "resample_steps", "target_l0", "bandwidth"),
    *("sparsity_function", "sparsity_queue_length", "n_sparsity_updates", "p_start", "p_end", "anneal_start"),
    *("anneal_end", "auxk_alpha", "top_k_aux", "threshold_beta", "threshold_start_step", "k_anneal_steps"),
    *("group_fractions", "group_weights", "group_sizes"),
)
_IN_BUFFER = ("d_submodule", "n_ctxs", "refresh_batch_size", "out_batch_size", "device", "layer")


def recognises(path: Path) -> bool:
    return (path / WEIGHTS).is_file()


def read(path: Path) -> SAE:
    """The dictionary in a trainer's directory.

    Raises:
        SaelabError: damaged, of an unknown class, not trained long enough to have a threshold where it needs one, or
            trained to predict outputs from inputs.
    """
    config, weights = path / CONFIG, path / WEIGHTS
    values = read_config(config)
    fields = Fields(values, str(config))
    trainer, origin = _trainer(fields)
    name = trainer.take("dict_class", str)
    if name not in CLASSES:
        fix = did_you_mean(name, CLASSES) or None
        raise SaelabError(f"unknown dict_class {shown(name)}", where=str(config), fix=fix)
    found, state, where = CLASSES[name], read_pickled(weights), str(weights)
    shape = width(trainer, "activation_dim"), width(trainer, "dict_size")
    tensors, settings = _tensors(found, state, shape, where)
    claimed = trainer.take("k", int) if found.budget else None
    trainer.done()
    if claimed != settings.get("k"):
        raise SaelabError(f"k is {claimed}, and {settings['k']} in {WEIGHTS}", where=str(config))
    parts = Parts(
        kind=found.kind,
        settings=settings,
        coder={key: value for key, value in tensors.items() if key not in ("W_dec", "b_dec")},
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        centred=found.centred,
        d_in=shape[0],
    )
    return assemble(parts, Source("dictionary_learning", (config, weights), origin, values))


def _tensors(
    found: DictClass, state: Mapping[str, Any], shape: tuple[int, int], where: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors by saelab's names, a latent a row, and the settings that are kept among them."""
    whole = [*(["k"] if found.budget else []), *(["group_sizes"] if found.nested else [])]
    shared = ["threshold"] if found.budget else []
    expect_names(state, [*found.names, *shared, *whole], where)
    tensors = floating({name: state[name] for name in [*found.names, *shared]}, [*found.names, *shared], where)
    d, n_latents = shape
    widths = {"W_enc": (d, n_latents), "W_dec": (n_latents, d), "b_dec": (d,)}
    shapes: dict[str, tuple[int, ...]] = {name: widths.get(ours, (n_latents,)) for name, ours in found.names.items()}
    shapes = {name: size[::-1] if name.endswith("weight") else size for name, size in shapes.items()}
    expect_shapes(tensors, shapes | dict.fromkeys(shared, ()), where)
    ours = {here: _latent_rows(name, tensors[name], here) for name, here in found.names.items()}
    if "rule.threshold" in ours:
        ours["rule.threshold"] = ours["rule.threshold"].clamp(min=0.0)  # relu(pre * (pre > threshold)), there
    if found.by_threshold:
        if not tensors["threshold"] >= 0:
            raise SaelabError(
                f"threshold is {float(tensors['threshold']):g}: this dictionary selects over a batch, and training has "
                "not found the threshold yet by which to select from one token",
                where=where,
            )
        ours["rule.threshold"] = tensors["threshold"]
    settings: dict[str, Any] = {"k": _numbers(state, "k", 0, where)[0]} if found.budget else {}
    if found.nested:
        settings["prefixes"] = torch.tensor(_numbers(state, "group_sizes", 1, where)).cumsum(0).tolist()
    return ours, settings


def _latent_rows(name: str, value: Tensor, ours: str) -> Tensor:
    """W_enc `[lat, d]` and W_dec `[lat, d]` from either layout."""
    transposed = ours == ("W_dec" if name.endswith("weight") else "W_enc")
    return value.T if transposed and value.ndim == 2 else value


def _numbers(state: Mapping[str, Any], name: str, n_axes: int, where: str) -> list[int]:
    """One whole number, or a row of them."""
    value = state[name]
    whole = isinstance(value, Tensor) and value.dtype in (torch.int32, torch.int64) and value.ndim == n_axes
    if not whole or not 0 < value.numel() < 2**12:
        raise SaelabError(f"{name} holds {shown(value)}, not a whole number or a row of them", where=where)
    numbers = value.reshape(-1).tolist()
    if min(numbers) < 1 or max(numbers) >= 2**31:
        raise SaelabError(f"{name} is {shown(numbers)}", where=where)
    return numbers


_SUBMODULE = re.compile(r"(resid_post|mlp_out|attn_out|attention_out)_?layer_?(\d+)")


def _trainer(fields: Fields) -> tuple[Fields, Origin]:
    """The trainer's part of the configuration, without what only training needs, and what both say of the model."""
    trainer, buffer = fields.section("trainer"), fields.section("buffer", {})
    fields.done()
    trainer.ignore(*_IN_TRAINING)
    buffer.ignore(*_IN_BUFFER)
    submodule, layer = trainer.optional("submodule_name", str), trainer.any("layer")
    named = _SUBMODULE.fullmatch(submodule or "")
    kinds = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out"}
    origin = Origin(
        model=trainer.optional("lm_name", str) or None,
        hook=f"blocks.{named[2]}.{kinds.get(named[1], 'hook_attn_out')}" if named and layer == int(named[2]) else None,
        context_length=buffer.optional("ctx_len", int),
    )
    if (io := buffer.optional("io", str)) not in (None, "in", "out"):
        raise SaelabError(
            f"it was trained on {shown(io)} of a submodule: what it reconstructs is not what it reads, but the bias "
            "of the one is subtracted from the other",
            where=buffer.where,
        )
    buffer.done()
    return trainer, origin


_WRITERS: Mapping[Form, Callable[[SAE], str]] = {
    (OneStep, ReLU): lambda sae: _class_of_relu(sae),
    (OneStep, TopK): lambda sae: "AutoEncoderTopK",
    (OneStep, Threshold): lambda sae: _class_of_thresholds(sae),
    (Gated, None): lambda sae: "GatedAutoEncoder",
}
"""Which class has the form."""


def _class_of_relu(sae: SAE) -> str:
    """AutoEncoder's loader brings decoder rows to norm 1, and so would change the codes of others."""
    norms = sae.W_dec.norm(dim=1)
    return "AutoEncoder" if sae.coder.centred and torch.allclose(norms, torch.ones_like(norms)) else "AutoEncoderNew"


def _class_of_thresholds(sae: SAE) -> str:
    rule: Any = sae.coder.rule
    if rule.threshold.ndim > 0:
        return "JumpReluAutoEncoder"
    return "MatryoshkaBatchTopKSAE" if _prefixes(sae) else "BatchTopKSAE"


def _prefixes(sae: SAE) -> tuple[int, ...]:
    """The nested dictionaries that an SAE was trained for; none for most."""
    identity = sae.identity
    with torch.device("meta"):
        losses = variants.build(identity.kind, identity.d_in, identity.settings).losses
    return tuple(losses[0].settings.get("prefixes", ()))


def write(sae: SAE, directory: Path) -> None:
    """Write what `load_dictionary` reads.

    Raises:
        SaelabError: no class there computes this.
    """
    identity = sae.identity
    if identity.transcoder:
        raise refusal(sae, FORMAT.title, "it has classes for SAEs that reconstruct their input alone")
    check_raw_units(sae, FORMAT.title)
    if form_of(sae) not in _WRITERS:
        raise refusal(sae, FORMAT.title)
    name = _WRITERS[form_of(sae)](sae)
    there = CLASSES[name]
    state = with_centre(sae, there.centred).state_dict()
    tensors = {name: _latent_rows(name, _value(state, ours), ours).contiguous() for name, ours in there.names.items()}
    rule: Any = getattr(sae.coder, "rule", None)
    if there.budget:
        k = rule.k if name == "AutoEncoderTopK" else max(1, round(identity.settings["k"]))
        threshold = rule.threshold if there.by_threshold else torch.tensor(-1.0)
        tensors |= {"k": torch.tensor(k, dtype=torch.int32), "threshold": threshold}
    if there.nested:
        tensors["group_sizes"] = torch.tensor([0, *_prefixes(sae)]).diff()
    torch.save(tensors, directory / WEIGHTS)
    write_json(directory / CONFIG, _config(sae, name, tensors))


def _value(state: Mapping[str, Tensor], ours: str) -> Tensor:
    return state[f"decoder.{ours}" if ours in ("W_dec", "b_dec") else f"coder.{ours}"]


def _config(sae: SAE, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    origin = Origin.of(sae.identity)
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_post|mlp_out|attn_out)", origin.hook or "")
    trainer: dict[str, Any] = {
        "trainer_class": "saelab",
        "dict_class": name,
        "activation_dim": sae.identity.d_in,
        "dict_size": sae.n_latents,
        "lm_name": origin.model,
        "layer": int(found[1]) if found else None,
        "submodule_name": f"{found[2]}_layer_{found[1]}" if found else origin.hook,
    }
    if "k" in tensors:
        trainer["k"] = int(tensors["k"])
    return {"trainer": trainer, "buffer": {"d_submodule": sae.identity.d_in, "ctx_len": origin.context_length}}


FORMAT = Format("dictionary_learning", f"{WEIGHTS} and {CONFIG}", recognises, read, write)
