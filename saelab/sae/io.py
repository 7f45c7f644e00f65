"""saelab's own format: a directory with `config.json` and `weights.safetensors`.

```
config.json          schema, saelab, kind, settings, d_in, d_out, form, transcoder, skip, centred,
                     token_scale, provenance
weights.safetensors  coder.W_enc [lat, d_in]  coder.b_enc [lat]  decoder.W_dec [lat, d_out]  decoder.b_dec [d_out],
                     with a skip connection decoder.W_skip [d_out, d_in],
                     and what else the variant's coder and rule keep: coder.rule.threshold [] or [lat], ...
```
Loading is strict: another schema, a missing, extra or misshapen tensor, or a value that is not finite
is an error that says so. Nothing in either file is executed. A file from before there were transcoders says
neither `transcoder` nor `skip`, and is none; one from before SAEs were imported says neither `centred` nor
`token_scale`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab import __version__
from saelab.errors import SaelabError
from saelab.files import atomic_directory, read_json, read_tensors
from saelab.sae import foreign, variants
from saelab.sae.model import SAE, Identity
from saelab.sae.token_scale import TOKEN_SCALES

SCHEMA = 1
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
_WIDEST = 2**24
"""No model is wider; a larger number is damage."""


def save(sae: SAE, directory: Path) -> None:
    """Write a new directory, complete or not at all.

    Raises:
        SaelabError: it exists already, or there is no room.
    """
    from safetensors.torch import save_file

    if directory.exists():
        raise SaelabError("this directory exists already", where=str(directory), fix="choose another name")
    with atomic_directory(directory) as temporary:
        document = {"schema": SCHEMA, "saelab": __version__, **asdict(sae.identity)}
        (temporary / CONFIG).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
        tensors = {name: value.detach().cpu().contiguous() for name, value in sae.state_dict().items()}
        save_file(tensors, temporary / WEIGHTS)


def load(source: Path | str) -> SAE:
    """Read a directory written by `save`, or an SAE in a format of `saelab.sae.foreign`; see `SAE.load`."""
    path = foreign.located(source)
    if not (path / WEIGHTS).exists():
        name = foreign.recognised(path)
        if name is not None:
            return foreign.FORMATS[name].read(path)
        if not (path / CONFIG).exists():
            known = "; ".join(
                f"{each.title}: {each.files}" for each in map(foreign.FORMATS.__getitem__, foreign.FORMATS)
            )
            raise SaelabError(
                "there is no SAE here in a form that saelab knows",
                where=str(path),
                fix=f"name a directory with {CONFIG} and {WEIGHTS}, or another tool's ({known})",
            )
    identity = _identity(read_json(path / CONFIG), path / CONFIG)
    return restore(identity, read_tensors(path / WEIGHTS), path / CONFIG, path / WEIGHTS)


def restore(identity: Identity, tensors: Mapping[str, Tensor], config: Path, weights: Path) -> SAE:
    """The SAE of this identity with these weights, which are taken over, not copied.

    Args:
        config, weights: where they were read: what errors name.

    Raises:
        SaelabError: nothing can be built of the identity, or the weights are not its own, or not finite.
    """
    try:
        with torch.device("meta"):
            target = identity.d_out if identity.transcoder else None
            sae = variants.build(identity.kind, identity.d_in, identity.settings, target, skip=identity.skip).sae
    except (SaelabError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason, fix = (error.message, error.fix) if isinstance(error, SaelabError) else (error, None)
        raise SaelabError(f"not an SAE this saelab can build: {reason}", where=str(config), fix=fix) from error
    if identity.d_out != sae.identity.d_out:
        raise SaelabError(f"d_out is {identity.d_out}, this variant's is {sae.identity.d_out}", where=str(config))
    if identity.form == "inference":
        sae = sae.inference()
    sae.identity = identity
    _check_imported(identity, sae, config)
    if identity.centred is not None:
        sae.coder.centred = identity.centred
    _check_weights(sae.state_dict(), tensors, weights)
    sae.load_state_dict(tensors, assign=True)
    return sae if identity.form == "training" else sae.requires_grad_(False)


def _check_imported(identity: Identity, sae: SAE, config: Path) -> None:
    """Raise where what only imported SAEs say does not go with the rest."""
    if identity.centred is None and identity.token_scale is None:
        return
    if identity.form != "inference":
        raise SaelabError("only an inference form may say centred or token_scale", where=str(config))
    if identity.centred is False and sae.coder.bound_to_input is not None:
        raise SaelabError(f"'{identity.kind}' always reads the input minus the decoder's bias", where=str(config))
    if identity.transcoder and (identity.centred or identity.token_scale is not None):
        raise SaelabError("a transcoder's target has neither the bias nor the scale of its input", where=str(config))


def is_config(document: Any) -> bool:
    """Whether a `config.json` is of an SAE in this format, of whatever schema."""
    return isinstance(document, dict) and {"schema", "saelab", "kind", "d_in"} <= document.keys()


def _identity(document: Any, path: Path) -> Identity:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise SaelabError(f"expected schema {SCHEMA}, found {found!r}", where=str(path))
    try:
        document = {"transcoder": False, "skip": False, "centred": None, "token_scale": None} | document
        fields = {name: document[name] for name in Identity.__dataclass_fields__}
    except KeyError as error:
        raise SaelabError(f"the key {error} is missing", where=str(path)) from error
    types = {"kind": str, "settings": dict, "d_in": int, "d_out": int, "form": str, "provenance": dict}
    for name, expected in (types | {"transcoder": bool, "skip": bool}).items():
        if type(fields[name]) is not expected:  # a bool is no number here
            raise SaelabError(f"{name} should be {expected.__name__}, found {fields[name]!r}", where=str(path))
    if type(fields["centred"]) not in (bool, type(None)):
        raise SaelabError(f"centred should be bool or null, found {fields['centred']!r}", where=str(path))
    if fields["token_scale"] is not None and fields["token_scale"] not in tuple(TOKEN_SCALES):
        known = ", ".join(TOKEN_SCALES)
        raise SaelabError(f"token_scale is {known} or null, not {fields['token_scale']!r}", where=str(path))
    if not (0 < fields["d_in"] < _WIDEST and 0 < fields["d_out"] < _WIDEST):
        raise SaelabError(f"d_in {fields['d_in']} and d_out {fields['d_out']} are no widths", where=str(path))
    identity = Identity(**fields)
    if identity.form not in ("training", "inference"):
        raise SaelabError(f"form is 'training' or 'inference', not {identity.form!r}", where=str(path))
    return identity


def _check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise SaelabError(f"the tensor {name} is missing", where=str(path))
        if name not in expected:
            raise SaelabError(f"there is a tensor {name} that this SAE does not have", where=str(path))
        if found[name].shape != expected[name].shape:
            shapes = f"{list(found[name].shape)}, expected {list(expected[name].shape)}"
            raise SaelabError(f"{name} has shape {shapes}", where=str(path))
        if not found[name].is_floating_point():
            raise SaelabError(f"{name} holds {found[name].dtype}, not floating point", where=str(path))
        if not torch.isfinite(found[name]).all():
            raise SaelabError(f"{name} holds values that are not finite", where=str(path))
