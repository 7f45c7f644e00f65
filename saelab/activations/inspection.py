"""Whether a store's files are what was written (`verify`) and what it holds (`info`), finished or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saelab.activations import index
from saelab.activations.checked import CHECKED, Checked
from saelab.activations.store import INDEX, MANIFEST, NORM_LIMITS, REMAKE, Shard, read_manifest
from saelab.errors import SaelabError
from saelab.files import sha256_file, sha256_json
from saelab.lm.windows import SPLITS

_OWN = {MANIFEST, INDEX, NORM_LIMITS, CHECKED, ".lock"}

Kind = Literal["missing", "unreadable", "exchanged", "truncated", "longer", "changed"]


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written.

    Attributes:
        detail: a sentence's end that says how (`holds 10 of 20 bytes`).
    """

    file: str
    kind: Kind
    detail: str


@dataclass(frozen=True)
class Condition:
    """What comparing every file of a store with its sha256 found.

    Attributes:
        complete: whether the store is finished.
        files, bytes: that were to be compared.
        damaged: all of them.
        extra: files that do not belong to the store: harmless.
    """

    complete: bool
    files: int
    bytes: int
    damaged: list[Damage]
    extra: list[str]


def verify(directory: Path, *, report: Callable[[int, int, str], None] = lambda *_: None) -> Condition:
    """Compare every file of a store with its size and sha256; of an unfinished one, what is finished.

    What was found before (`checked`) is not believed, and forgotten where something is damaged.

    Args:
        report: called before each file with the bytes compared so far, all bytes, and the file's name.

    Raises:
        SaelabError: there is no store here, or its manifest cannot be read.
    """
    manifest = read_manifest(directory) if (directory / MANIFEST).exists() else None
    expected = _expected(_unfinished(directory).shards if manifest is None else _listed(directory, manifest))
    owner = {sha256: file for file, (_, sha256) in expected.items()}
    total, done = sum(size for size, _ in expected.values()), 0
    damaged: list[Damage] = []
    if manifest is not None and sha256_json(manifest.get("content")) != manifest.get("content_sha256"):
        damaged.append(Damage(MANIFEST, "changed", "says other things than the hash in it"))
    for file, (size, sha256) in expected.items():
        report(done, total, file)
        found = _compare(directory / file, size, sha256, owner)
        if found is not None:
            damaged.append(found)
        done += size
    report(total, total, "")
    if damaged:
        Checked(directory).forget()
    extra = sorted(p.name for p in directory.iterdir() if p.name not in expected and p.name not in _OWN)
    return Condition(manifest is not None, len(expected), total, damaged, extra)


def _compare(path: Path, size: int, sha256: str, owner: dict[str, str]) -> Damage | None:
    try:
        found_size, found = path.stat().st_size, sha256_file(path)
    except FileNotFoundError:
        return Damage(path.name, "missing", "is not there")
    except OSError as error:
        return Damage(path.name, "unreadable", f"cannot be read: {error.strerror}")
    if found == sha256:
        return None
    if found in owner:
        return Damage(path.name, "exchanged", f"holds what belongs in {owner[found]}")
    if found_size != size:
        kind = "truncated" if found_size < size else "longer"
        return Damage(path.name, kind, f"holds {found_size:,} bytes instead of {size:,}")
    return Damage(path.name, "changed", "has the right size and another sha256")


def _expected(shards: Iterable[Shard]) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file."""
    out: dict[str, tuple[int, str]] = {}
    for shard in shards:
        out[shard.file] = shard.bytes, shard.sha256
        out[shard.contexts] = shard.contexts_bytes, shard.contexts_sha256
    return out


def _listed(directory: Path, manifest: dict[str, Any]) -> list[Shard]:
    try:
        return [Shard(**line) for line in manifest["shards"]]
    except (KeyError, TypeError) as error:
        raise SaelabError(f"this manifest is damaged: {error}", where=str(directory / MANIFEST), fix=REMAKE) from error


def _unfinished(directory: Path) -> index.Index:
    found = index.read(directory)
    if found is None:
        raise SaelabError("there is no activation store here", where=str(directory), fix="run `saelab cache`")
    return found


@dataclass(frozen=True)
class SplitInfo:
    """One side of a store; `wanted_tokens` is what was asked for (None: not known)."""

    tokens: int
    wanted_tokens: int | None
    contexts: int
    shards: int


@dataclass(frozen=True)
class Info:
    """What a store holds.

    Attributes:
        complete: whether it is finished.
        hooks: the shape of a token's activation at each (None: not known before the store is finished).
        content: everything that determines the store's bytes: model, data, windows, mask, capture.
        mask: as it was resolved for the tokenizer (None: unfinished).
        created_by: the version of saelab that finished it.
        bytes: of all shards and contexts that are in place.
    """

    directory: str
    complete: bool
    content_sha256: str
    splits: dict[str, SplitInfo]
    hooks: dict[str, list[int] | None]
    dtype: str | None
    loss_grad: bool
    content: dict[str, Any]
    mask: dict[str, Any] | None
    created_by: str | None
    bytes: int


def info(directory: Path) -> Info:
    """What a store holds, and of an unfinished one how far it is; no shard is opened.

    Raises:
        SaelabError: there is no store here, or its manifest is damaged.
    """
    if not (directory / MANIFEST).exists():
        return _unfinished_info(directory)
    manifest = read_manifest(directory)
    try:
        return _finished_info(directory, manifest, _listed(directory, manifest))
    except (KeyError, TypeError, AttributeError) as error:
        where = str(directory / MANIFEST)
        raise SaelabError(f"this manifest is damaged: {error}", where=where, fix=REMAKE) from error


def _finished_info(directory: Path, manifest: dict[str, Any], shards: list[Shard]) -> Info:
    return Info(
        directory=str(directory),
        complete=True,
        content_sha256=manifest["content_sha256"],
        splits=_splits(shards, manifest["content"]),
        hooks={name: hook["shape"] for name, hook in manifest["hooks"].items()},
        dtype=manifest["dtype"],
        loss_grad=bool(manifest["loss_grad"]),
        content=manifest["content"],
        mask=manifest["mask"],
        created_by=manifest.get("saelab"),
        bytes=_bytes(shards),
    )


def _unfinished_info(directory: Path) -> Info:
    found = _unfinished(directory)
    capture = found.content["capture"]
    shards = index.in_place(directory)
    return Info(
        directory=str(directory),
        complete=False,
        content_sha256=found.content_sha256,
        splits=_splits(shards, found.content),
        hooks=dict.fromkeys(capture["hooks"]),
        dtype=capture["dtype"],
        loss_grad=capture.get("loss_grad", False),
        content=found.content,
        mask=None,
        created_by=None,
        bytes=_bytes(shards),
    )


def _splits(shards: list[Shard], content: dict[str, Any]) -> dict[str, SplitInfo]:
    wanted = content.get("capture", {})
    out: dict[str, SplitInfo] = {}
    for split, key in zip(SPLITS, ("tokens", "heldout_tokens"), strict=True):
        mine = [shard for shard in shards if shard.split == split]
        contexts = sum(shard.n_contexts for shard in mine if shard.last)
        out[split] = SplitInfo(sum(shard.n_tokens for shard in mine), wanted.get(key), contexts, len(mine))
    return out


def _bytes(shards: list[Shard]) -> int:
    return sum(size for size, _ in _expected(shards).values())
