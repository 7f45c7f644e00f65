"""saelab's own format: a directory with `config.json` and `weights.safetensors`.

```
config.json          schema, saelab, kind, settings, d_in, d_out, form, transcoder, skip, provenance
weights.safetensors  coder.W_enc [lat, d_in]  coder.b_enc [lat]  decoder.W_dec [lat, d_out]  decoder.b_dec [d_out],
                     with a skip connection decoder.W_skip [d_out, d_in],
                     and what else the variant's coder and rule keep: coder.rule.threshold [] or [lat], ...
```
Loading is strict: another schema, a missing, extra or misshapen tensor, or a value that is not finite
is an error that says so. Nothing in either file is executed. A file from before there were transcoders says
neither `transcoder` nor `skip`, and is none.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab import __version__
from saelab.errors import SaelabError
from saelab.files import atomic_directory, read_json, read_tensors
from saelab.sae import variants
from saelab.sae.model import SAE, Identity

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


def load(directory: Path) -> SAE:
    """Read a directory written by `save`; see `SAE.load`."""
    if not directory.is_dir():
        raise SaelabError("there is no SAE here: this directory does not exist", where=str(directory))
    path = directory / CONFIG
    identity = _identity(read_json(path), path)
    try:
        with torch.device("meta"):
            target = identity.d_out if identity.transcoder else None
            sae = variants.build(identity.kind, identity.d_in, identity.settings, target, skip=identity.skip).sae
    except (SaelabError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise SaelabError(f"not an SAE this saelab can build: {error}", where=str(path)) from error
    if identity.d_out != sae.identity.d_out:
        raise SaelabError(f"d_out is {identity.d_out}, this variant's is {sae.identity.d_out}", where=str(path))
    if identity.form == "inference":
        sae = sae.inference()
    sae.identity = identity
    tensors = read_tensors(directory / WEIGHTS)
    _check_weights(sae.state_dict(), tensors, directory / WEIGHTS)
    sae.load_state_dict(tensors, assign=True)
    return sae if identity.form == "training" else sae.requires_grad_(False)


def _identity(document: Any, path: Path) -> Identity:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise SaelabError(f"expected schema {SCHEMA}, found {found!r}", where=str(path))
    try:
        document = {"transcoder": False, "skip": False} | document
        fields = {name: document[name] for name in Identity.__dataclass_fields__}
    except KeyError as error:
        raise SaelabError(f"the key {error} is missing", where=str(path)) from error
    types = {"kind": str, "settings": dict, "d_in": int, "d_out": int, "form": str, "provenance": dict}
    for name, expected in (types | {"transcoder": bool, "skip": bool}).items():
        if type(fields[name]) is not expected:  # a bool is no number here
            raise SaelabError(f"{name} should be {expected.__name__}, found {fields[name]!r}", where=str(path))
    if not (0 < fields["d_in"] < _WIDEST and 0 < fields["d_out"] < _WIDEST):
        raise SaelabError(f"d_in {fields['d_in']} and d_out {fields['d_out']} are no widths", where=str(path))
    identity = Identity(**fields)
    if identity.form not in ("training", "inference"):
        raise SaelabError(f"form is 'training' or 'inference', not {identity.form!r}", where=str(path))
    return identity


def _check_weights(expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
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
