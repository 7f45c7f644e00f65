"""Two tables: `features.parquet`, a row a feature with what is written of it; `examples.parquet`, a row an example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelab.features.exports import Report
from saelab.features.exports.selection import Selection
from saelab.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 256
FEATURES, EXAMPLES = "features.parquet", "examples.parquet"


def write(selection: Selection, directory: Path, report: Report | None = None) -> list[Path]:
    """Write both files into `directory`, each complete or not at all, and return their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = [directory / FEATURES, directory / EXAMPLES]
    schemas = [schema.with_metadata(_metadata(selection)) for schema in (_features_schema(), _examples_schema())]
    latents = selection.latents
    with (
        atomic_file(paths[0]) as features,
        atomic_file(paths[1]) as examples,
        pq.ParquetWriter(features, schemas[0], compression="zstd") as features_out,
        pq.ParquetWriter(examples, schemas[1], compression="zstd") as examples_out,
    ):
        for start in range(0, len(latents), _BATCH):
            batch = latents[start : start + _BATCH]
            rows = [_feature(selection, latent) for latent in batch]
            features_out.write_table(pa.Table.from_pylist(rows, schemas[0]))
            shown = [row for latent in batch for row in _examples(selection, latent)]
            examples_out.write_table(pa.Table.from_pylist(shown, schemas[1]))
            if report:
                report(start + len(batch), len(latents), "")
    return paths


def _feature(selection: Selection, latent: int) -> dict[str, Any]:
    feature, annotation = selection.bundle.feature(latent), selection.annotation(latent)

    def tokens(pairs: Any, number: str) -> list[dict[str, Any]]:
        return [{"id": i, "token": selection.token(i), number: value} for i, value in pairs]

    def latents(pairs: Any, number: str) -> list[dict[str, Any]]:
        return [{"latent": i, number: value} for i, value in pairs]

    x, y = feature.map or (None, None)
    return {
        "latent": latent,
        "label": annotation.label,
        "note": annotation.note,
        "bookmarked": annotation.bookmarked,
        "lists": list(annotation.lists),
        "updated": annotation.updated or None,
        "dead": feature.dead,
        "count": feature.count,
        "negative": feature.negative,
        "density": feature.density,
        "mean": feature.mean,
        "min": feature.min,
        "max": feature.max,
        "decoder_norm": feature.decoder_norm,
        "histogram": feature.histogram,
        "positions": feature.positions,
        "fires_on": tokens(feature.fires_on, "share"),
        "promoted": tokens(feature.promoted, "logit"),
        "suppressed": tokens(feature.suppressed, "logit"),
        "neighbours": latents(feature.neighbours, "cosine"),
        "coactive": latents(feature.coactive, "overlap"),
        "map_x": x,
        "map_y": y,
    }


def _examples(selection: Selection, latent: int) -> Iterator[dict[str, Any]]:
    bundle = selection.bundle
    for example in bundle.examples(latent):
        context = bundle.context(example.context)
        tokens, values = selection.shown(example)
        yield {
            "latent": latent,
            "bin": example.bin,
            "value": example.value,
            "context": example.context,
            "position": example.position,
            "document": context.documents[example.position],
            "token_ids": context.tokens,
            "tokens": tokens,
            "values": values,
        }


def _metadata(selection: Selection) -> dict[str, str]:
    manifest = selection.bundle.manifest
    return {"saelab.sae_sha256": selection.bundle.sae_sha256, "saelab.index": str(manifest.get("content_sha256", ""))}


def _features_schema() -> pa.Schema:
    import pyarrow as pa

    def pairs(key: str, kind: pa.DataType, number: str) -> pa.DataType:
        named = [("token", pa.string())] if key == "id" else []
        return pa.list_(pa.struct([(key, kind), *named, (number, pa.float32())]))

    tokens, latents = ("id", pa.int32()), ("latent", pa.int32())
    return pa.schema(
        [
            ("latent", pa.int32()),
            ("label", pa.string()),
            ("note", pa.string()),
            ("bookmarked", pa.bool_()),
            ("lists", pa.list_(pa.string())),
            ("updated", pa.string()),
            ("dead", pa.bool_()),
            ("count", pa.int64()),
            ("negative", pa.int64()),
            *[(name, pa.float64()) for name in ("density", "mean", "min", "max", "decoder_norm")],
            ("histogram", pa.list_(pa.int64())),
            ("positions", pa.list_(pa.float64())),
            ("fires_on", pairs(*tokens, "share")),
            ("promoted", pairs(*tokens, "logit")),
            ("suppressed", pairs(*tokens, "logit")),
            ("neighbours", pairs(*latents, "cosine")),
            ("coactive", pairs(*latents, "overlap")),
            ("map_x", pa.float32()),
            ("map_y", pa.float32()),
        ]
    )


def _examples_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("latent", pa.int32()),
            ("bin", pa.int16()),
            ("value", pa.float32()),
            ("context", pa.int32()),
            ("position", pa.int32()),
            ("document", pa.int32()),
            ("token_ids", pa.list_(pa.int32())),
            ("tokens", pa.list_(pa.string())),
            ("values", pa.list_(pa.float32())),
        ]
    )
