"""A small feature index, made by hand: every number follows from a few random activations."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelab.features import bundle

TOKENS, LENGTH, LISTED, TOP, INTERVALS = 320, 16, 5, 6, 4
_WORDS = "the a of and in to river city king sun moon tree stone bird house north water light music train".split()  # noqa: SIM905

HOSTILE = [
    "<script>document.title='broken'</script>",
    '"><img src=x onerror=alert(1)>',
    "</p></mark><h1>",
    "**bold** _it_ [link](javascript:alert(1)) `code` $\\alpha$ :smile:",
    "\u202eright to left",
    "zero\u200bwidth",
    "\0\x1b[31m",
    "\n\t",
    "=HYPERLINK(1)",
    "שלום",
    "e\u0301\u0301\u0301",
    "x" * 10_000,
]
"""Token texts that a page, a table or a terminal could take for something else."""


def tiny_bundle(
    directory: Path,
    *,
    n_latents: int = 12,
    signed: bool = False,
    hostile: bool = False,
    lens: bool = True,
    seed: int = 0,
) -> Path:
    """Write a complete index into `directory`; latent 3 never fires.

    Args:
        signed: values below 0 too; hostile: `HOSTILE` are among the tokens, and in the provenance;
        lens: whether tokens are promoted and suppressed.
    """
    rng = np.random.default_rng(seed)
    words = ["<bos>", *(f" {word}" for word in _WORDS), *(HOSTILE if hostile else [])]
    tokens = rng.integers(1, len(words), (TOKENS // LENGTH, LENGTH)).astype(np.int32)
    tokens[:, 0] = 0
    values = rng.exponential(1.0, (n_latents, TOKENS)).astype(np.float16).astype(np.float32)
    values *= rng.random(values.shape) < 0.15
    if signed:
        values *= np.where(rng.random(values.shape) < 0.4, -1, 1)
    values[3:4] = 0
    values[:, ::LENGTH] = 0

    directory.mkdir(parents=True, exist_ok=True)
    columns = {**_statistics(values, tokens.reshape(-1)), **_decoder(rng, n_latents, len(words), lens)}
    _write_table(directory / bundle.FEATURES, columns)
    (directory / bundle.VOCABULARY).write_text(json.dumps(words), encoding="utf-8")
    documents = np.repeat(np.arange(len(tokens), dtype=np.int32)[:, None] // 2, LENGTH, axis=1)
    contexts = {"tokens": tokens, "documents": documents, "length": np.full(len(tokens), LENGTH, np.int32)}
    _write_arrays(directory / "contexts-00000.safetensors", contexts)
    scale = np.maximum(columns["max"], -columns["min"])
    _write_arrays(directory / "examples-00000.safetensors", _examples(values, scale))
    name = f"{n_latents} {signed} {hostile} {lens} {seed}"
    (directory / bundle.MANIFEST).write_text(json.dumps(_manifest(directory, name, n_latents, signed, lens, hostile)))
    return directory


def _manifest(directory: Path, name: str, n_latents: int, signed: bool, lens: bool, hostile: bool) -> dict[str, Any]:
    def entry(file: str, **more: int) -> dict[str, Any]:
        body = (directory / file).read_bytes()
        return {"file": file, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(), **more}

    text = HOSTILE[0] if hostile else "tiny"
    return {
        "schema": bundle.SCHEMA,
        "content": {"spec": {"intervals": INTERVALS, "top": TOP}, "of": name},
        "content_sha256": hashlib.sha256(name.encode()).hexdigest(),
        "sae": {
            "sha256": hashlib.sha256(f"sae {name}".encode()).hexdigest(),
            "kind": text,
            "settings": {"n_latents": n_latents},
            "provenance": {"model": {"name": text}, "hook": "blocks.1.hook_resid_post", "data": {"files": {text: ""}}},
        },
        "lens": None if lens else "this SAE reads an MLP's input",
        "map": "pca",
        "signed": signed,
        "numbers": {
            "latents": n_latents,
            "tokens": TOKENS,
            "contexts": TOKENS // LENGTH,
            "position_tokens": [TOKENS // LENGTH] * bundle.POSITION_BINS,
        },
        "contexts": [entry("contexts-00000.safetensors", first=0, contexts=TOKENS // LENGTH)],
        "examples": [entry("examples-00000.safetensors", first=0, latents=n_latents)],
        "files": [entry(bundle.FEATURES), entry(bundle.VOCABULARY)],
        "complete": True,
    }


def _statistics(values: NDArray[Any], tokens: NDArray[Any]) -> dict[str, NDArray[Any]]:
    active = values != 0
    count = active.sum(1)
    low, high = np.minimum(values.min(1), 0), np.maximum(values.max(1), 0)
    histograms = [
        np.histogram(v[v != 0], bundle.HISTOGRAM_BINS, (a, b))[0] for v, a, b in zip(values, low, high, strict=True)
    ]
    fired = np.stack([np.bincount(tokens, np.abs(v)) for v in values])
    ids, share = _strongest(fired / np.maximum(fired.sum(1, keepdims=True), 1e-9))
    together = active.astype(np.float32) @ active.T
    np.fill_diagonal(together, 0)
    coactive, overlap = _strongest(together / np.maximum(np.sqrt(np.outer(count, count)), 1))
    return {
        "count": count,
        "negative": (values < 0).sum(1),
        "mean": (values.sum(1) / np.maximum(count, 1)).astype(np.float32),
        "min": low.astype(np.float32),
        "max": high.astype(np.float32),
        "histogram": np.stack(histograms).astype(np.int32),
        "positions": active.reshape(len(values), -1, LENGTH).sum(1).astype(np.int32),
        "fire_tokens": ids,
        "fire_share": share,
        "coactive": coactive,
        "overlap": overlap,
    }


def _decoder(rng: np.random.Generator, n_latents: int, n_words: int, lens: bool) -> dict[str, NDArray[Any]]:
    rows = rng.normal(size=(n_latents, 8))
    norm = np.linalg.norm(rows, axis=1)
    cosines = rows @ rows.T / np.outer(norm, norm)
    np.fill_diagonal(cosines, 0)
    neighbours, cosine = _strongest(cosines)
    logits = rows @ rng.normal(size=(8, n_words))
    top, top_logits = _strongest(logits, wanted=lens)
    bottom, bottom_logits = _strongest(-logits, wanted=lens)
    histogram = np.stack([np.histogram(row, bundle.LOGIT_BINS)[0] for row in logits]) * lens
    return {
        "top_tokens": top,
        "top_logits": top_logits,
        "bottom_tokens": bottom,
        "bottom_logits": -bottom_logits,
        "logit_histogram": histogram.astype(np.int32),
        "neighbours": neighbours,
        "cosine": cosine,
        "decoder_norm": norm.astype(np.float32),
        "map_x": rows[:, 0].astype(np.float32),
        "map_y": rows[:, 1].astype(np.float32),
    }


def _strongest(scores: NDArray[Any], wanted: bool = True) -> tuple[NDArray[Any], NDArray[Any]]:
    """The `LISTED` columns of each row with the highest scores above 0, padded with -1."""
    padded = np.pad(scores, ((0, 0), (0, LISTED)))
    order = np.argsort(-padded, axis=1, kind="stable")[:, :LISTED]
    found = np.take_along_axis(padded, order, 1).astype(np.float32)
    keep = (found > 0) & wanted
    return np.where(keep, order, -1).astype(np.int32), np.where(keep, found, 0)


def _examples(values: NDArray[Any], scale: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The `TOP` strongest contexts at both ends, and up to two tokens from each of four intervals."""
    context: list[int] = []
    position: list[int] = []
    bins: list[int] = []
    entry_position: list[int] = []
    entry_value: list[float] = []
    example_offsets, entry_offsets = [0], [0]
    for latent, row in enumerate(values.reshape(len(values), -1, LENGTH)):
        for c, p, b in [*_chosen(row, 1), *_chosen(-row, -1)]:
            active = np.flatnonzero(row[c])
            context.append(c)
            position.append(p)
            bins.append(b)
            entry_position += active.tolist()
            entry_value += (row[c][active] / scale[latent]).tolist()
            entry_offsets.append(len(entry_position))
        example_offsets.append(len(context))
    return {
        "example_offsets": np.asarray(example_offsets, np.int32),
        "context": np.asarray(context, np.int32),
        "position": np.asarray(position, np.int16),
        "bin": np.asarray(bins, np.int8),
        "entry_offsets": np.asarray(entry_offsets, np.int32),
        "entry_position": np.asarray(entry_position, np.int16),
        "entry_value": np.asarray(entry_value, np.float16),
    }


def _chosen(row: NDArray[Any], side: int) -> list[tuple[int, int, int]]:
    """(context, position, bin) of examples with values above 0."""
    peaks = row.max(1)
    strongest = [c for c in np.argsort(-peaks, kind="stable")[:TOP].tolist() if peaks[c] > 0]
    found = [(c, int(row[c].argmax()), 0 if side > 0 else -1) for c in strongest]
    edges = np.linspace(0, float(peaks.max()), INTERVALS + 1)
    for number in range(INTERVALS):
        high, low = edges[INTERVALS - number], edges[INTERVALS - number - 1]
        inside = np.argwhere((row > low) & (row <= high))[:2].tolist()
        found += [(c, p, 1 + number if side > 0 else -2 - number) for c, p in inside]
    return found


def _write_table(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column(array: NDArray[Any]) -> Any:
        return (
            pa.array(array) if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(array.reshape(-1), array.shape[1])
        )

    pq.write_table(pa.table({name: column(array) for name, array in columns.items()}), path)


def _write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path)
