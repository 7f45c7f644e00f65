"""Writing an SAE in another tool's format, complete or not at all."""

from __future__ import annotations

import copy
from pathlib import Path

from saelab.errors import SaelabError
from saelab.files import atomic_directory
from saelab.sae import SAE
from saelab.sae.foreign import FORMATS

WRITABLE = ("saelens", "sparsify", "dictionary_learning")
"""Formats that `export` writes."""


def export(sae: SAE, directory: Path | str, format: str) -> None:
    """Write the inference form into a new directory, as another tool would have.

    Args:
        format: one of `WRITABLE`.

    Raises:
        SaelabError: an unknown format, or one that saelab only reads; one that cannot express this SAE, with the
            reason; an SAE in training form; a directory that is there already, or no room.
    """
    directory, form = Path(directory), FORMATS[format]
    if form.write is None:
        raise SaelabError(
            f"saelab reads {form.title}, and does not write it", where="--format", fix=f"one of {', '.join(WRITABLE)}"
        )
    if sae.identity.form != "inference":
        raise SaelabError(
            "only the inference form can be exported, and this SAE is in training form", fix="export sae.inference(...)"
        )
    if directory.exists():
        raise SaelabError("this directory exists already", where=str(directory), fix="choose another name")
    here = sae if sae.W_dec.device.type == "cpu" else copy.deepcopy(sae).cpu()
    with atomic_directory(directory) as temporary:
        form.write(here, temporary)
