"""The feature bundle: the files of an index, as a reader sees them.

```
manifest.json                written last: schema, content (what determined it) and its hash, the SAE, numbers
                             over all latents, every file with its bytes and sha256, complete: true
features.parquet             one row a latent, in order; columns below
vocabulary.json              the text of every token id
contexts-00000.safetensors   tokens, documents [contexts, context_length] int32; length [contexts] int32
examples-00000.safetensors   of consecutive latents: example_offsets [latents + 1]; per example context, position,
                             bin and entry_offsets [examples + 1]; per entry entry_position, entry_value
progress.json                while it is being built: stage, done, total
```
Columns of `features.parquet`: `count` (tokens on which the latent is active), `negative` (on how many its value is
below 0), `mean`, `min`, `max` (of its active values; `min` and `max` are 0 where none lies on that side),
`histogram` (32 equal bins of active values from `min` to `max`), `positions` (active tokens in 16 equal stretches
of the context), `fire_tokens` and `fire_share` (tokens it fires on, by their share of its summed absolute value),
`top_tokens`, `top_logits`, `bottom_tokens`, `bottom_logits` and `logit_histogram` (20 equal bins between the
extremes), `neighbours` and `cosine` (of decoder rows), `coactive` and `overlap`, `decoder_norm`, `map_x`, `map_y`.
Lists end in -1 where there is no more.

An example is a token at which the latent fires, and its value at every active token of that context. `bin` 0 are
the contexts in which it is strongest, 1, 2, ... draws from intervals of activation, the highest first; where values are
signed, -1 are the contexts in which it is most negative, -2, -3, ... draws from intervals below 0. Entries are float16,
in units of the larger of `max` and `-min`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saelab.errors import SaelabError
from saelab.files import read_json

SCHEMA = 1
MANIFEST = "manifest.json"
FEATURES = "features.parquet"
VOCABULARY = "vocabulary.json"
PROGRESS = "progress.json"
HISTOGRAM_BINS = 32
POSITION_BINS = 16
LOGIT_BINS = 20

REBUILD = "saelab index RUN --again builds it anew"
State = Literal["absent", "building", "complete"]


@dataclass(frozen=True)
class Example:
    """A latent at work in one context.

    Attributes:
        context: its number in the bundle; position: the token this example is about.
        bin: see the module; values: the latent's activation by position, wherever it is active here.
    """

    context: int
    position: int
    bin: int
    values: Mapping[int, float]

    @property
    def value(self) -> float:
        """At the token this example is about."""
        return self.values[self.position]


@dataclass(frozen=True)
class Context:
    """Token ids of one context, padding left out; document: the number of each token's document."""

    number: int
    tokens: Sequence[int]
    documents: Sequence[int]


@dataclass(frozen=True)
class Feature:
    """One latent's row: numbers, and lists of (id, number) pairs, the strongest first.

    Attributes:
        count, negative: active tokens, and those with a value below 0; density: count over all tokens.
        histogram: `[32]` counts from `min` to `max`.
        positions: `[16]`: on which share of the tokens in each stretch of the context it is active.
        promoted, suppressed: tokens by logit (empty where the lens is not measurable); logit_histogram: `[20]`.
        fires_on: tokens by share of summed absolute activation; neighbours: latents by decoder cosine;
            coactive: latents by tokens in common over the geometric mean of both counts.
    """

    latent: int
    count: int
    negative: int
    density: float
    mean: float
    min: float
    max: float
    decoder_norm: float
    histogram: Sequence[int]
    positions: Sequence[float]
    fires_on: Sequence[tuple[int, float]]
    promoted: Sequence[tuple[int, float]]
    suppressed: Sequence[tuple[int, float]]
    logit_histogram: Sequence[int]
    neighbours: Sequence[tuple[int, float]]
    coactive: Sequence[tuple[int, float]]
    map: tuple[float, float] | None

    @property
    def dead(self) -> bool:
        return self.count == 0


def state(directory: Path) -> State:
    """Whether there is an index here, or one on its way."""
    if (directory / MANIFEST).exists():
        return "complete"
    return "building" if (directory / PROGRESS).exists() else "absent"


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a complete index.

    Raises:
        SaelabError: absent, still building, or of another schema.
    """
    found = state(directory)
    if found != "complete":
        what = "there is no feature index here" if found == "absent" else "this feature index is not complete yet"
        raise SaelabError(what, where=str(directory), fix="saelab index RUN")
    document = read_json(directory / MANIFEST)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not document.get("complete"):
        raise SaelabError(f"not a feature index of schema {SCHEMA}", where=str(directory / MANIFEST), fix=REBUILD)
    return document


class Bundle:
    """A complete index, opened for reading. Threads may share one.

    Attributes:
        manifest: `sae` (sha256, kind, settings, provenance), `content`, `lens` (why there is none, or null),
            `map` (umap, pca or none), `signed`.
        n_latents, n_tokens, n_contexts: of the SAE; looked at.

    Raises:
        SaelabError: absent, not complete, or damaged (with the file).
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.manifest = read_manifest(directory)
        try:
            numbers = self.manifest["numbers"]
            self.n_latents, self.n_tokens = int(numbers["latents"]), int(numbers["tokens"])
            self.n_contexts = int(numbers["contexts"])
            self.position_tokens: list[int] = numbers["position_tokens"]
            self.signed = bool(self.manifest["signed"])
            self._context_files: list[dict[str, Any]] = self.manifest["contexts"]
            self._example_files: list[dict[str, Any]] = self.manifest["examples"]
            files = [*self._context_files, *self._example_files, *self.manifest["files"]]
            sizes = {str(entry["file"]): int(entry["bytes"]) for entry in files}
        except (KeyError, TypeError, ValueError) as error:
            where = str(directory / MANIFEST)
            raise SaelabError(f"this manifest is damaged: {error}", where=where, fix=REBUILD) from error
        for file, expected in sizes.items():
            path = directory / file
            if Path(file).name != file or not path.is_file() or path.stat().st_size != expected:
                raise SaelabError("this file of the index is missing or damaged", where=str(path), fix=REBUILD)
        self._open: dict[str, dict[str, NDArray[Any]]] = {}

    @property
    def sae_sha256(self) -> str:
        """The key of annotations."""
        return str(self.manifest["sae"]["sha256"])

    @cached_property
    def vocabulary(self) -> list[str]:
        """The text of every token id."""
        return list(read_json(self.directory / VOCABULARY))

    def token(self, number: int) -> str:
        """The text of a token id; ids beyond the vocabulary are shown by number."""
        return self.vocabulary[number] if 0 <= number < len(self.vocabulary) else f"<{number}>"

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """`features.parquet` as arrays, one row a latent: `[latents]`, or `[latents, n]` for lists."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.directory / FEATURES
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise SaelabError(f"not a readable table: {error}", where=str(path), fix=REBUILD) from error
        found = {}
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            if pa.types.is_fixed_size_list(column.type):
                flat = column.flatten().to_numpy(zero_copy_only=False)
                found[name] = flat.reshape(len(column), -1)
            else:
                found[name] = column.to_numpy(zero_copy_only=False)
        return found

    @cached_property
    def density(self) -> NDArray[np.float64]:
        """`[latents]`: the share of tokens on which each latent is active."""
        return self.columns["count"] / max(self.n_tokens, 1)

    @cached_property
    def largest(self) -> NDArray[np.float32]:
        """`[latents]`: each one's largest absolute activation, 0 where it never fires."""
        return np.maximum(self.columns["max"], -self.columns["min"])

    def feature(self, latent: int) -> Feature:
        """Raises SaelabError where there is no such latent."""
        self._check(latent)
        row = {name: column[latent] for name, column in self.columns.items()}

        def pairs(ids: str, numbers: str) -> list[tuple[int, float]]:
            return [(int(i), float(x)) for i, x in zip(row[ids], row[numbers], strict=True) if i >= 0]

        at = np.asarray(self.position_tokens, dtype=np.float64)
        shares = np.divide(row["positions"], at, out=np.zeros_like(at), where=at > 0)
        place = (float(row["map_x"]), float(row["map_y"]))
        return Feature(
            latent=latent,
            count=int(row["count"]),
            negative=int(row["negative"]),
            density=float(self.density[latent]),
            mean=float(row["mean"]),
            min=float(row["min"]),
            max=float(row["max"]),
            decoder_norm=float(row["decoder_norm"]),
            histogram=row["histogram"].tolist(),
            positions=shares.tolist(),
            fires_on=pairs("fire_tokens", "fire_share"),
            promoted=pairs("top_tokens", "top_logits"),
            suppressed=pairs("bottom_tokens", "bottom_logits"),
            logit_histogram=row["logit_histogram"].tolist(),
            neighbours=pairs("neighbours", "cosine"),
            coactive=pairs("coactive", "overlap"),
            map=None if np.isnan(place[0]) else place,
        )

    def examples(self, latent: int) -> list[Example]:
        """Of one latent: the strongest first, then the intervals from the highest down, then those below 0."""
        self._check(latent)
        entry = next(e for e in self._example_files if e["first"] <= latent < e["first"] + e["latents"])
        shard = self._arrays(entry["file"])
        scale = float(self.largest[latent])
        row = latent - entry["first"]
        found = []
        for e in range(int(shard["example_offsets"][row]), int(shard["example_offsets"][row + 1])):
            part = slice(int(shard["entry_offsets"][e]), int(shard["entry_offsets"][e + 1]))
            positions = shard["entry_position"][part].tolist()
            values = (shard["entry_value"][part].astype(np.float64) * scale).tolist()
            found.append(
                Example(
                    int(shard["context"][e]),
                    int(shard["position"][e]),
                    int(shard["bin"][e]),
                    dict(zip(positions, values, strict=True)),
                )
            )
        return found

    def context(self, number: int) -> Context:
        """Raises SaelabError where there is no such context."""
        if not 0 <= number < self.n_contexts:
            raise SaelabError(f"there is no context {number}; there are {self.n_contexts:,}", where=str(self.directory))
        entry = next(e for e in self._context_files if e["first"] <= number < e["first"] + e["contexts"])
        arrays, row = self._arrays(entry["file"]), number - entry["first"]
        real = slice(0, int(arrays["length"][row]))
        return Context(number, arrays["tokens"][row][real].tolist(), arrays["documents"][row][real].tolist())

    def _check(self, latent: int) -> None:
        if not 0 <= latent < self.n_latents:
            last = self.n_latents - 1
            raise SaelabError(f"there is no latent {latent}; they go from 0 to {last}", where=str(self.directory))

    def _arrays(self, file: str) -> dict[str, NDArray[Any]]:
        """A file's arrays, mapped: what is not looked at takes no memory."""
        if file not in self._open:
            self._open[file] = mapped(self.directory / file)
        return self._open[file]


def mapped(path: Path) -> dict[str, NDArray[Any]]:
    """A safetensors file as arrays that are read from disk where they are looked at."""
    import json

    kinds = {"I32": "<i4", "I64": "<i8", "I16": "<i2", "I8": "i1", "F16": "<f2", "F32": "<f4"}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        whole = np.memmap(path, mode="r", dtype=np.uint8)
        found = {}
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                found[name] = whole[begin:end].view(kinds[entry["dtype"]]).reshape(entry["shape"])
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SaelabError(f"this file of the index is damaged: {error}", where=str(path), fix=REBUILD) from error
