"""Where an SAE belongs: in which model, at which hook, on which text. Tools write it in as many ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saelab.files import sha256_file
from saelab.sae.model import Identity

_IMPORTED = "imported"


@dataclass(frozen=True)
class Origin:
    """What is known of an SAE besides its weights; None is unknown.

    Attributes:
        model: a name that Hugging Face or TransformerLens knows.
        hook: what it reads, by TransformerLens' names; target_hook: what a transcoder reconstructs.
        dataset: the text it was trained on.
        context_length: tokens per context; prepend_bos: whether one starts with BOS.
        special_tokens, first_position: whether training left those out.
    """

    model: str | None = None
    hook: str | None = None
    target_hook: str | None = None
    dataset: str | None = None
    context_length: int | None = None
    prepend_bos: bool | None = None
    special_tokens: bool | None = None
    first_position: bool | None = None

    @classmethod
    def of(cls, identity: Identity) -> Origin:
        """What an SAE's provenance says, be it of a run here or of an import; what is ill-typed there is unknown."""
        provenance = identity.provenance
        model, data = _section(provenance, "model"), _section(provenance, "data")
        windows, mask = _section(provenance, "windows"), _section(provenance, "mask")
        here = {
            "model": model.get("name"),
            "hook": provenance.get("hook"),
            "target_hook": provenance.get("target_hook"),
            "dataset": data.get("hub") or data.get("dataset") or ", ".join(_section(data, "files")) or None,
            "context_length": windows.get("context_length"),
            "prepend_bos": windows.get("prepend_bos"),
            "special_tokens": bool(mask["special"]) if "special" in mask else None,
            "first_position": mask.get("first_position"),
        }
        there = _section(_section(provenance, _IMPORTED), "origin")
        said = {name: there.get(name) if value is None else value for name, value in here.items()}
        return cls(**{name: value for name, value in said.items() if type(value) is _TYPES[name]})


_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("model", "hook", "target_hook", "dataset"), str),
    **dict.fromkeys(("prepend_bos", "special_tokens", "first_position"), bool),
    "context_length": int,
}


def _section(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return dict(found) if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Source:
    """The files an SAE is read from, and what they say of it.

    Attributes:
        format: its name among `saelab.sae.foreign.FORMATS`.
        files: read; hashes of them are kept.
        origin: what they say of where the SAE belongs.
        metadata: what else they say, as it stands there, JSON-able.
    """

    format: str
    files: tuple[Path, ...]
    origin: Origin = field(default_factory=Origin)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def provenance(self) -> dict[str, Any]:
        """JSON-able, to be kept with the SAE."""
        return {
            _IMPORTED: {
                "format": self.format,
                "sha256": {path.name: sha256_file(path) for path in self.files},
                "origin": {key: value for key, value in asdict(self.origin).items() if value is not None},
                "metadata": dict(self.metadata),
            }
        }
