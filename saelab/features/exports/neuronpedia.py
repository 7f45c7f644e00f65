"""Neuronpedia's import layout, as its `admin/import` route reads it and SAEDashboard writes it (looked at in 2026).

```
<model id>/<layer>-<source set>/
  release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl     one row each
  features/batch-N.jsonl.gz                                     table Neuron
  activations/batch-N.jsonl.gz                                  table Activation
  explanations/batch-N.jsonl.gz                                 table Explanation: a label, and its note
```
Rows have the columns of those tables; the columns of a file are those of its first row, and what is left out takes
the table's default. An activation's group is told by `binMin`: -1 for the strongest contexts, else the lower edge of
an interval of activation; `binContains` is the share of all tokens in it. Negative activations, which Neuronpedia has
no group for, are intervals below 0. Ids follow from what a row is about, so that importing twice adds nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelab.errors import SaelabError
from saelab.features.annotations import now
from saelab.features.bundle import Bundle, Example, Feature
from saelab.features.exports import Report
from saelab.features.exports.selection import Selection
from saelab.files import atomic_directory

DEFAULT_CREATOR = "clkht01d40000jv08hvalcvly"
"""The user that a fresh Neuronpedia has."""
_BATCH = 256
_VALUE_DIGITS, _VECTOR_DIGITS = 4, 6
_TOP = -1.0


@dataclass(frozen=True)
class Source:
    """What Neuronpedia calls the SAE.

    Attributes:
        model, source_set: ids, letters, digits, `-` and `_`; layer: its number; creator: a user's id there.
        created: ISO 8601.
    """

    model: str
    source_set: str
    layer: int
    hook: str
    dataset: str = ""
    context_tokens: int = 0
    creator: str = DEFAULT_CREATOR
    creator_name: str = "saelab"
    created: str = ""

    @property
    def id(self) -> str:
        return f"{self.layer}-{self.source_set}"

    @property
    def key(self) -> dict[str, str]:
        """What every row says of whose it is."""
        return {"modelId": self.model, "layer": self.id}


def source_of(bundle: Bundle, source_set: str, model: str | None = None, creator: str | None = None) -> Source:
    """From what the SAE knows of its origin.

    Raises:
        SaelabError: it does not say which model, or which layer.
    """
    provenance = bundle.manifest["sae"].get("provenance") or {}
    name = model or str((provenance.get("model") or {}).get("name", ""))
    hook = str(bundle.manifest.get("hook") or provenance.get("hook", ""))
    layer = re.search(r"\d+", hook)
    if not name or not layer:
        what = "model" if not name else "layer"
        raise SaelabError(f"this SAE does not say which {what} it was trained on", where=str(bundle.directory))
    data = provenance.get("data") or {}
    return Source(
        model=identifier(re.split(r"[:/]", name)[-1]),
        source_set=identifier(source_set),
        layer=int(layer.group()),
        hook=hook,
        dataset=str(data.get("name") or ", ".join(data.get("files") or {})),
        context_tokens=int((provenance.get("windows") or {}).get("context_length", 0)),
        creator=creator or DEFAULT_CREATOR,
        created=now(),
    )


def identifier(text: str) -> str:
    """Text as Neuronpedia takes it for an id; an error where nothing is left."""
    found = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:100]
    if not found:
        raise SaelabError(f"{text!r} has no letter or digit; an id needs some")
    return found


def write(
    selection: Selection,
    source: Source,
    directory: Path,
    vectors: NDArray[Any] | None = None,
    report: Report | None = None,
) -> Path:
    """Write a new directory below `directory`, complete or not at all, and return it.

    Args:
        vectors: `[latents, d]`, the decoder's rows: Neuronpedia steers with them.

    Raises:
        SaelabError: it exists already, or there is no room.
    """
    path = directory / source.model / source.id
    if path.exists():
        raise SaelabError("this directory exists already", where=str(path), fix="remove it, or choose another -o")
    with atomic_directory(path) as place:
        for name, row in _tables(selection, source).items():
            (place / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        for folder in ("features", "activations", "explanations"):
            (place / folder).mkdir()
        for number, start in enumerate(range(0, len(selection.latents), _BATCH)):
            batch = selection.latents[start : start + _BATCH]
            file = f"batch-{number}.jsonl.gz"
            features = (feature_row(selection, source, latent, vectors) for latent in batch)
            _write_rows(place / "features" / file, features)
            activations = (row for latent in batch for row in activation_rows(selection, source, latent))
            _write_rows(place / "activations" / file, activations)
            explanations = [row for latent in batch for row in explanation_rows(selection, source, latent)]
            if explanations:
                _write_rows(place / "explanations" / file, explanations)
            if report:
                report(start + len(batch), len(selection.latents), "")
    return path


def feature_row(selection: Selection, source: Source, latent: int, vectors: NDArray[Any] | None) -> dict[str, Any]:
    """A row of `features/`."""
    feature = selection.bundle.feature(latent)
    vector = [] if vectors is None else _rounded(vectors[latent], _VECTOR_DIGITS)
    logits = [logit for _, logit in (*feature.promoted[:1], *feature.suppressed[:1])]
    return {
        **source.key,
        "index": str(latent),
        "sourceSetName": source.source_set,
        "creatorId": source.creator,
        "createdAt": source.created,
        "maxActApprox": _rounded([feature.max])[0],
        "hasVector": bool(vector),
        "vector": vector,
        "vectorDefaultSteerStrength": _rounded([feature.max or 10.0])[0],
        "hookName": source.hook,
        "topkCosSimIndices": [i for i, _ in feature.neighbours],
        "topkCosSimValues": _rounded([cosine for _, cosine in feature.neighbours]),
        "pos_str": [selection.token(i) for i, _ in feature.promoted],
        "pos_values": _rounded([logit for _, logit in feature.promoted]),
        "neg_str": [selection.token(i) for i, _ in feature.suppressed],
        "neg_values": _rounded([logit for _, logit in feature.suppressed]),
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_heights": list(feature.histogram),
        "freq_hist_data_bar_values": _centres(feature.min, feature.max, len(feature.histogram)),
        "logits_hist_data_bar_heights": list(feature.logit_histogram) if logits else [],
        "logits_hist_data_bar_values": _centres(min(logits), max(logits), len(feature.logit_histogram))
        if logits
        else [],
    }


def activation_rows(selection: Selection, source: Source, latent: int) -> Iterator[dict[str, Any]]:
    """Rows of `activations/`: one an example, with the whole context."""
    bundle = selection.bundle
    feature, intervals = bundle.feature(latent), int(bundle.manifest["content"]["spec"]["intervals"])
    for number, example in enumerate(bundle.examples(latent)):
        tokens, values = selection.shown(example)
        values = _rounded(values)
        low, high, share = _group(feature, example, intervals)
        yield {
            "id": _id("activation", source, latent, number),
            **source.key,
            "index": str(latent),
            "creatorId": source.creator,
            "createdAt": source.created,
            "tokens": tokens,
            "values": values,
            "maxValue": max(values),
            "maxValueTokenIndex": values.index(max(values)),
            "minValue": min(values),
            "binMin": low,
            "binMax": high,
            "binContains": share,
            "qualifyingTokenIndex": example.position,
        }


def explanation_rows(selection: Selection, source: Source, latent: int) -> Iterator[dict[str, Any]]:
    """Rows of `explanations/`: a label, or where there is none the note; lists and a bookmark have no place there."""
    annotation = selection.annotation(latent)
    if annotation.label or annotation.note:
        yield {
            "id": _id("explanation", source, latent, 0),
            **source.key,
            "index": str(latent),
            "authorId": source.creator,
            "createdAt": annotation.updated,
            "description": annotation.label or annotation.note,
            "notes": annotation.note or None,
        }


def _tables(selection: Selection, source: Source) -> dict[str, dict[str, Any]]:
    """The rows on release, model, source set and source, by file."""
    made = {"creatorId": source.creator, "createdAt": source.created}
    release = f"{source.model}-{source.source_set}"
    return {
        "release": {
            **made,
            "name": release,
            "description": release,
            "descriptionShort": release,
            "creatorName": source.creator_name,
            "creatorNameShort": source.creator_name,
            "visibility": "PUBLIC",
            "urls": [],
        },
        "model": {
            **made,
            "id": source.model,
            "displayName": source.model,
            "displayNameShort": source.model,
            "instruct": source.model.endswith(("-it", "-instruct")),
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": "",
            "visibility": "PUBLIC",
        },
        "sourceset": {
            **made,
            "modelId": source.model,
            "name": source.source_set,
            "releaseName": release,
            "creatorName": source.creator_name,
            "description": f"{selection.bundle.n_latents:,} latents at {source.hook}",
            "visibility": "PUBLIC",
        },
        "source": {
            **made,
            "id": source.id,
            "modelId": source.model,
            "setName": source.source_set,
            "dataset": source.dataset,
            "num_prompts": selection.bundle.n_contexts,
            "num_tokens_in_prompt": source.context_tokens,
            "notes": f"SAE {selection.bundle.sae_sha256}",
            "visibility": "PUBLIC",
        },
    }


def _group(feature: Feature, example: Example, intervals: int) -> tuple[float, float, float]:
    """`binMin`, `binMax` and `binContains` of an example; see the module."""
    if example.bin == 0:
        return _TOP, _rounded([feature.max])[0], _TOP
    if example.bin == -1:
        low, high = feature.min, 0.0
    elif example.bin > 0:
        low, high = (feature.max * (intervals - example.bin + step) / intervals for step in (0, 1))
    else:
        high, low = (feature.min * (intervals + example.bin + 1 + step) / intervals for step in (0, 1))
    share = feature.density * (_share_below(feature, high) - _share_below(feature, low))
    inactive = 1 - feature.density if low == 0 else 0.0
    low, high, share = _rounded([low, high, share + inactive])
    return low, high, share


def _share_below(feature: Feature, value: float) -> float:
    """Of active tokens, from the histogram, a bin's own spread evenly."""
    edges = np.linspace(feature.min, feature.max, len(feature.histogram) + 1)
    return float(np.interp(value, edges, np.cumsum([0, *feature.histogram]) / feature.count))


def _centres(low: float, high: float, bins: int) -> list[float]:
    edges = np.linspace(low, high, bins + 1)
    return _rounded((edges[:-1] + edges[1:]) / 2)


def _rounded(values: Sequence[float] | NDArray[Any], digits: int = _VALUE_DIGITS) -> list[float]:
    """To significant digits: three decimals, as elsewhere, would lose small activations."""
    return [float(f"{value:.{digits}g}") if value else 0.0 for value in values]


def _id(kind: str, source: Source, latent: int, number: int) -> str:
    digest = hashlib.sha256(f"{kind} {source.model} {source.id} {latent} {number}".encode())
    return "c" + digest.hexdigest()[:24]


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 5, raw, mtime=0) as file:
        for row in rows:
            file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
