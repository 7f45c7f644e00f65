"""Whether an SAE is measured where it was trained: in the same model, on the same text, cut and masked alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saelab.errors import SaelabError

_NAMED = 3
"""Differences that are named; of more, the number."""
_BACK = "bring config.yaml back to what it was, or train under another name (-o name=...)"
_OTHER = {
    "model": ("another model", "bring its weights back (model.name, model.revision), or train an SAE of this model"),
    "data": ("other text", "bring the text back; `saelab index RUN --data TEXT` looks at other text on purpose"),
    "windows": ("text in other windows", _BACK),
    "mask": ("other positions", _BACK),
}


def check_trained_on(provenance: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Compare what an SAE says of its training with the `model`, `data`, `windows` and `mask` in `found`, as far as it
    says anything: one that was imported knows no hash of its text. A note where the model's dtype is another.

    Raises:
        SaelabError: one of them is another.
    """
    for section, (what, fix) in _OTHER.items():
        then, now = _parts(section, _section(provenance, section)), _parts(section, _section(found, section))
        changed = [key for key in sorted({**then, **now}) if then.get(key) != now.get(key)]
        if then and now and changed:
            said = [f"{key} was {then.get(key, 'missing')} and is {now.get(key, 'missing')}" for key in changed]
            more = f"; and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
            message = f"this SAE was trained on {what}: {'; '.join(said[:_NAMED])}{more}"
            where = f"model {found['model'].get('name')}" if section == "model" else section
            raise SaelabError(message, where=where, fix=fix)
    before, here = _section(provenance, "model").get("dtype"), _section(found, "model").get("dtype")
    if before is None or here is None or before == here:
        return None
    return f"the SAE was trained on {before} passes of the model, and these are {here}"


def _section(place: Mapping[str, Any], name: str) -> dict[str, Any]:
    said = place.get(name)
    return said if isinstance(said, dict) else {}


def _parts(section: str, said: dict[str, Any]) -> dict[str, str]:
    """What there is to compare, by names that mean something; empty where nothing fixes it."""
    if section == "model" and "content" in said:
        files = str(said["content"]).replace("commit ", "commit=").split(";")
        parts = {name: value for name, _, value in (part.partition("=") for part in files)}
        return parts | {"tokenizer": str(said.get("tokenizer"))}
    if section == "model" or (section == "data" and not said.keys() & {"files", "hub"}):
        return {}
    return {key: str(value) for key, value in (said.get("files", {}) | said).items() if key not in _BY_THEMSELVES}


_BY_THEMSELVES = ("files", "norm_limits")
"""Files are compared one by one; limits follow from the rest."""
