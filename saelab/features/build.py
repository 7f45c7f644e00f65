"""Build an index: read codes once, turn them around, choose examples, look at the decoder, write it down.

Every stage leaves files in `work/`, complete or absent, so that the same command goes on where it was killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab.errors import SaelabError
from saelab.features import bundle, decoder, examples
from saelab.features.coactivity import coactive
from saelab.features.codes import Codes
from saelab.features.spec import IndexSpec, Map
from saelab.features.spill import Spilled, part_file, spill
from saelab.features.statistics import statistics
from saelab.files import (
    atomic_file,
    only_process,
    read_json,
    read_tensors,
    sha256_file,
    sha256_json,
    sweep_temporaries,
    write_json,
    write_tensors,
    writing,
)
from saelab.lm.model import LanguageModel

Report = Callable[[str, int, int], None]
"""Is told (stage, done, total)."""


@dataclass(frozen=True)
class Origin:
    """What an index is of.

    Attributes:
        codes: of the tokens looked at; W_dec: `[latents, d_out]`.
        hook: where decoder rows are written.
        model: loads the language model, for the logit lens; None: there is none to be had.
        texts: gives the text of every token id.
        sae, content: JSON-able: what the manifest says of the SAE; what determines the index beside `spec`.
    """

    codes: Codes
    W_dec: Tensor
    hook: str
    model: Callable[[], LanguageModel] | None
    texts: Callable[[], list[str]]
    sae: dict[str, Any]
    content: dict[str, Any]


def build_index(origin: Origin, spec: IndexSpec, directory: Path, report: Report, *, again: bool = False) -> None:
    """Make `directory` a complete index of `origin`: found, gone on with, or made.

    An index of something else (the SAE was trained again, another spec) is replaced.

    Raises:
        SaelabError: another process is at it; the directory holds something else; no space; the store is damaged.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    busy = SaelabError("another process builds this index", where=str(directory), fix="wait for it, or stop it")
    with only_process(directory / ".lock", busy):
        _Builder(origin, spec, directory, report).build(again=again)


class _Builder:
    def __init__(self, origin: Origin, spec: IndexSpec, directory: Path, report: Report):
        self.origin, self.spec, self.directory = origin, spec, directory
        self.codes, self.W_dec = origin.codes, origin.W_dec.detach().float().cpu()
        self.work = directory / "work"
        self.content = {"schema": bundle.SCHEMA, "spec": asdict(spec), "hook": origin.hook} | origin.content
        self.content_sha256 = sha256_json(self.content)
        self.kind_of_map: Map = decoder.kind_of_map(spec, self.codes.n_latents)
        self._report = report

    def build(self, *, again: bool) -> None:
        sweep_temporaries(self.directory)
        if bundle.state(self.directory) == "complete" and not again and self._same(bundle.MANIFEST):
            self._tidy()
            return
        self._take_over(again=again)
        contexts, tokens = self._contexts()
        spilled = self._spill()
        shards, signed = self._latents(spilled, tokens)
        near = self._once("nearest", self._nearest)
        columns = self._once("lens", self._lens) | self._once("coactive", lambda: self._coactive(spilled))
        columns |= self._once("map", lambda: self._map(near)) | self._listed(near)
        self._write_table(columns, shards)
        files = [bundle.FEATURES, self._vocabulary()]
        self._finish(spilled, contexts, shards, files, signed)

    def _same(self, file: str) -> bool:
        found = read_json(self.directory / file)
        return isinstance(found, dict) and found.get("content_sha256") == self.content_sha256

    def _take_over(self, *, again: bool) -> None:
        """Drop what belongs to another index, and say that this one is on its way."""
        if bundle.state(self.directory) == "absent" and any(p.name != ".lock" for p in self.directory.iterdir()):
            raise SaelabError("this directory holds files that are not an index's", where=str(self.directory))
        progress = self.directory / bundle.PROGRESS
        if again or not progress.exists() or not self._same(bundle.PROGRESS):
            for path in self.directory.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._say("begin", 0, 1)
        with writing(self.work):
            self.work.mkdir(exist_ok=True)
        sweep_temporaries(self.work)

    def _say(self, stage: str, done: int, total: int) -> None:
        write_json(
            self.directory / bundle.PROGRESS,
            {"content_sha256": self.content_sha256, "stage": stage, "done": done, "total": total},
        )
        self._report(stage, done, total)

    def _contexts(self) -> tuple[list[dict[str, Any]], NDArray[np.int32]]:
        """Copy the contexts; `[contexts, length]` ids of all of them."""
        found, tokens, first = [], [], 0
        for number, part in enumerate(self.codes.contexts()):
            path = self.directory / f"contexts-{number:05}.safetensors"
            if not path.exists():
                arrays = {"tokens": part.tokens.int(), "documents": part.documents.int(), "length": part.length.int()}
                write_tensors(path, arrays)
            found.append({"file": path.name, "first": first, "contexts": len(part.length)})
            tokens.append(part.tokens.int().numpy())
            first += len(part.length)
        return found, np.concatenate(tokens)

    def _spill(self) -> Spilled:
        sizes = self.codes.parts()
        total, done = sum(sizes), 0
        share = min(1.0, self.spec.coactive_tokens / max(total, 1))
        for number, size in enumerate(sizes):
            self._say("encode", done, total)
            if not part_file(self.work, number).exists():
                spill(self.codes, number, self.work, round(size * share))
            done += size
        return Spilled(self.work, len(sizes))

    def _latents(self, spilled: Spilled, tokens: NDArray[np.int32]) -> tuple[list[dict[str, Any]], bool]:
        """Statistics and examples, a block of latents at a time."""
        shards: list[dict[str, Any]] = []
        for number, (first, stop) in enumerate(spilled.blocks()):
            self._say("examples", first, self.codes.n_latents)
            path = self.directory / f"examples-{number:05}.safetensors"
            shards.append({"file": path.name, "first": first, "latents": stop - first})
            if path.exists():
                continue
            entries = spilled.entries(first, stop)
            columns = statistics(entries, tokens, self.spec.tokens_listed)
            write_tensors(self._columns_file(path.name), _tensors(columns))
            chosen = examples.choose(entries, self.codes.context_length, self.spec)
            write_tensors(path, _tensors(examples.arrays(entries, chosen, self.codes.context_length)))
        signed = any(bool(read_tensors(self._columns_file(s["file"]))["negative"].any()) for s in shards)
        return shards, signed

    def _columns_file(self, shard: str) -> Path:
        return self.work / f"columns-of-{shard}"

    def _once(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What a stage gives, or gave before."""
        path = self.work / f"{name}.safetensors"
        if not path.exists():
            write_tensors(path, make())
        return read_tensors(path)

    def _progress(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self._say(stage, done, total)

    def _nearest(self) -> dict[str, Tensor]:
        wanted = max(self.spec.latents_listed, decoder.UMAP_NEIGHBOURS - 1)
        numbers, cosines = decoder.nearest(self.W_dec, wanted, self._progress("nearest latents"))
        return {"neighbours": numbers, "cosine": cosines}

    def _listed(self, near: dict[str, Tensor]) -> dict[str, Tensor]:
        listed = {name: value[:, : self.spec.latents_listed] for name, value in near.items()}
        return listed | {"decoder_norm": self.W_dec.norm(dim=1)}

    def _lens(self) -> dict[str, Tensor]:
        if self._no_lens is not None or self.origin.model is None:
            return decoder.without_lens(self.codes.n_latents, self.spec.tokens_listed)
        lm = self.origin.model()
        return decoder.logit_lens(self.W_dec, lm, self.spec.tokens_listed, self._progress("logit lens"))

    @property
    def _no_lens(self) -> str | None:
        if self.origin.model is None:
            return "no language model was given"
        return decoder.no_lens(self.origin.hook)

    def _coactive(self, spilled: Spilled) -> dict[str, Tensor]:
        offsets, latents = spilled.sample()
        numbers, overlaps = coactive(
            offsets, latents, self.codes.n_latents, self.spec.latents_listed, self._progress("active together")
        )
        return _tensors({"coactive": numbers, "overlap": overlaps})

    def _map(self, near: dict[str, Tensor]) -> dict[str, Tensor]:
        self._say("map", 0, 1)
        flat = decoder.flat_map(self.W_dec, self.kind_of_map, (near["neighbours"], near["cosine"]), self.spec.seed)
        return {"map_x": flat[:, 0].contiguous(), "map_y": flat[:, 1].contiguous()}

    def _write_table(self, columns: dict[str, Tensor], shards: list[dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = [read_tensors(self._columns_file(shard["file"])) for shard in shards]
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} | columns
        table = pa.table({name: _column(value.numpy()) for name, value in columns.items()})
        with atomic_file(self.directory / bundle.FEATURES) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def _vocabulary(self) -> str:
        write_json(self.directory / bundle.VOCABULARY, self.origin.texts())
        return bundle.VOCABULARY

    def _finish(
        self,
        spilled: Spilled,
        contexts: list[dict[str, Any]],
        shards: list[dict[str, Any]],
        files: list[str],
        signed: bool,
    ) -> None:
        at = np.arange(self.codes.context_length) * bundle.POSITION_BINS // self.codes.context_length
        numbers = {
            "latents": self.codes.n_latents,
            "tokens": self.codes.n_tokens,
            "contexts": sum(entry["contexts"] for entry in contexts),
            "context_length": self.codes.context_length,
            "position_tokens": np.bincount(at, spilled.positions, bundle.POSITION_BINS).astype(int).tolist(),
            "dead": int((spilled.counts == 0).sum()),
            "l0": float(spilled.counts.sum() / max(self.codes.n_tokens, 1)),
        }
        write_json(
            self.directory / bundle.MANIFEST,
            {
                "schema": bundle.SCHEMA,
                "content_sha256": self.content_sha256,
                "content": self.content,
                "sae": self.origin.sae,
                "hook": self.origin.hook,
                "numbers": numbers,
                "signed": signed,
                "lens": self._no_lens,
                "map": self.kind_of_map,
                "contexts": [entry | _fingerprint(self.directory / entry["file"]) for entry in contexts],
                "examples": [entry | _fingerprint(self.directory / entry["file"]) for entry in shards],
                "files": [{"file": file} | _fingerprint(self.directory / file) for file in files],
                "complete": True,
            },
        )
        self._tidy()
        self._report("done", 1, 1)

    def _tidy(self) -> None:
        """Drop what a complete index does not need."""
        (self.directory / bundle.PROGRESS).unlink(missing_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _tensors(arrays: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _column(array: NDArray[Any]) -> Any:
    import pyarrow as pa

    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array).reshape(-1)), array.shape[1])
