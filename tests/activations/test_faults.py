"""What goes wrong around a store: each fault is named, nothing is lost, and the same call goes on to the same bytes."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saelab import files
from saelab.activations import CaptureSpec, Loader, Store, capture, info, stored, verify
from saelab.activations import room as room_module
from saelab.activations.checked import CHECKED
from saelab.activations.room import Room, estimate
from saelab.errors import SaelabError
from saelab.files import sha256_file
from saelab.lm import corpus, windows
from saelab.lm.corpus import DataSpec
from saelab.lm.mask import MaskSpec
from saelab.lm.windows import WindowSpec

HOOK, HEADS = "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"
WINDOWS = WindowSpec(context_length=32, heldout_frac=0.2)
AGAIN = "delete its manifest.json and run the command that cached again: it makes only what is missing or damaged"


@pytest.fixture
def cache(lm, tiny_text_file, tmp_path) -> Callable[..., Store]:
    """Capture what the fixture `store` holds, into `place` or into its directory."""

    def make(
        place: Path | None = None,
        *,
        data: DataSpec | None = None,
        model: Any = lm,
        windows: WindowSpec = WINDOWS,
        announce: Callable[[Room], None] = lambda _: None,
        **settings: Any,
    ) -> Store:
        spec = CaptureSpec(
            **{
                "hooks": (HOOK, HEADS),
                "tokens": 2000,
                "heldout_tokens": 300,
                "dtype": "float32",
                "shuffle_contexts": 16,
                "shard_bytes": 60_000,
                "dir": str(place or tmp_path / "store"),
            }
            | settings
        )
        text = data or DataSpec(str(tiny_text_file))
        return capture(model, text, windows, MaskSpec(), spec, announce=announce)

    return make


def bytes_of(directory: Path) -> dict[str, str]:
    """What must come out the same; `.lock` and what is remembered of checks are no part of a store."""
    return {p.name: sha256_file(p) for p in directory.iterdir() if not p.name.startswith(".")}


def flip(path: Path, offset: int = -5) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def twins(store: Store) -> tuple[Path, Path]:
    """Two shards of one size."""
    first = store.shards[0]
    other = next(s for s in store.shards[1:] if s.bytes == first.bytes)
    return store.directory / first.file, store.directory / other.file


# -- a damaged file ---------------------------------------------------------------------------------------


def test_every_damaged_file_is_named_with_what_happened_to_it(store):
    place = store.directory
    assert verify(place).damaged == []
    one, other = twins(store)
    rest = [place / s.file for s in store.shards if place / s.file not in (one, other)]
    exchange(one, other)
    flip(rest[0])
    rest[1].write_bytes(rest[1].read_bytes()[:-10])
    rest[2].write_bytes(rest[2].read_bytes() + b"more")
    rest[3].unlink()
    contexts = place / store.shards[0].contexts
    contexts.unlink()
    contexts.mkdir()
    (place / "thesis.txt").write_text("precious")
    calls: list[tuple[int, int, str]] = []
    found = verify(place, report=lambda *call: calls.append(call))
    assert {damage.file: damage.kind for damage in found.damaged} == {
        one.name: "exchanged",
        other.name: "exchanged",
        rest[0].name: "changed",
        rest[1].name: "truncated",
        rest[2].name: "longer",
        rest[3].name: "missing",
        contexts.name: "unreadable",
    }
    size = next(s.bytes for s in store.shards if s.file == rest[1].name)
    details = {damage.file: damage.detail for damage in found.damaged}
    assert details[one.name] == f"holds what belongs in {other.name}"
    assert details[rest[1].name] == f"holds {size - 10:,} bytes instead of {size:,}"
    assert found.extra == ["thesis.txt"]
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    assert calls[-1] == (found.bytes, found.bytes, "")


@pytest.mark.parametrize("fault", ["flipped", "exchanged", "contexts"])
def test_damage_that_sizes_do_not_show_is_met_when_the_shard_is_read(store, fault):
    before = Loader(store, HOOK, batch_tokens=100)
    next(before)
    one, other = twins(store)
    if fault == "flipped":
        flip(one)
    elif fault == "exchanged":
        exchange(one, other)
    else:
        flip(store.directory / store.shards[0].contexts)
    again = Store(store.directory)
    message = rf"shard-train-00000-000.safetensors: this shard is damaged: its sha256 is not(.|\n)*{AGAIN}"
    if fault == "contexts":
        with pytest.raises(SaelabError, match=r"contexts-train-00000.safetensors: this shard is damaged"):
            list(again.contexts("train"))
    else:
        with pytest.raises(SaelabError, match=message):
            list(stored(again, "train", HOOK))
        loader = Loader(again, HOOK, batch_tokens=100)
        with pytest.raises(SaelabError, match="this shard is damaged"):
            [next(loader) for _ in range(40)]


def test_a_loader_that_met_damage_goes_on_where_it_was_once_it_is_mended(store):
    undisturbed = Loader(store, HOOK, batch_tokens=150, mix_shards=2, seed=3)
    expected = [next(undisturbed).input for _ in range(20)]
    whole = {s.file: (store.directory / s.file).read_bytes() for s in store.shards}
    loader = Loader(Store(store.directory), HOOK, batch_tokens=150, mix_shards=2, seed=3)
    seen = [next(loader).input for _ in range(2)]
    for file in whole:
        flip(store.directory / file)

    def go_on() -> None:
        while len(seen) < 20:
            seen.append(next(loader).input)

    with pytest.raises(SaelabError, match="this shard is damaged"):
        go_on()
    assert loader.served == 150 * len(seen) < 150 * 20
    for file, raw in whole.items():
        (store.directory / file).write_bytes(raw)
    go_on()
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))


@pytest.mark.parametrize("fault", ["missing", "truncated", "flipped", "exchanged", "contexts"])
def test_a_damaged_file_alone_is_made_again(store, cache, fault, monkeypatch):
    before = bytes_of(store.directory)
    one, other = twins(store)
    {
        "missing": one.unlink,
        "truncated": lambda: one.write_bytes(one.read_bytes()[:100]),
        "flipped": lambda: flip(one),
        "exchanged": lambda: exchange(one, other),
        "contexts": (store.directory / store.shards[-1].contexts).unlink,
    }[fault]()
    if fault != "flipped" and fault != "exchanged":
        with pytest.raises(SaelabError, match=rf"this shard is (missing|damaged)(.|\n)*{AGAIN}"):
            cache()
    (store.directory / "manifest.json").unlink()
    written: list[str] = []
    real = files.write_tensors

    def watched(path: Path, tensors: Any, metadata: Any = None) -> None:
        written.append(path.name)
        real(path, tensors, metadata)

    monkeypatch.setattr(files, "write_tensors", watched)
    cache()
    assert bytes_of(store.directory) == before
    assert 0 < len(written) < len(list(store.directory.glob("*.safetensors")))


def test_what_was_whole_is_hashed_once_and_again_when_it_changes(store, monkeypatch):
    from saelab.activations import checked

    hashed: list[str] = []
    monkeypatch.setattr(checked, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    read = lambda: sum(batch.input.shape[0] for batch in stored(Store(store.directory), "train", HOOK))  # noqa: E731
    assert read() == store.n_tokens("train")
    assert hashed == []  # the writer took each sha256 as it wrote
    (store.directory / CHECKED).unlink()
    read()
    read()
    assert sorted(hashed) == sorted(shard.file for shard in store.of("train"))
    hashed.clear()
    one = store.directory / store.shards[0].file
    one.write_bytes(one.read_bytes())  # the same bytes at another time
    read()
    assert hashed == [one.name]
    (store.directory / CHECKED).write_bytes(b"\xff nonsense")
    read()
    assert len(hashed) == 1 + len(store.of("train"))


def test_verify_believes_nothing_and_lets_later_readers_believe_nothing(store):
    one = store.directory / store.shards[0].file
    stamp = one.stat()
    flip(one)
    os.utime(one, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a disk does that rots
    assert next(stored(Store(store.directory), "train", HOOK))
    assert [damage.file for damage in verify(store.directory).damaged] == [one.name]
    with pytest.raises(SaelabError, match="this shard is damaged"):
        next(stored(Store(store.directory), "train", HOOK))


# -- another store's files --------------------------------------------------------------------------------


def test_a_store_of_another_model_is_refused(store, cache, tmp_path):
    from saelab.lm.model import ModelSpec, load
    from saelab.testing.tiny import tiny_model

    other = load(ModelSpec(str(tiny_model(tmp_path / "other", seed=1)), dtype="float32", device="cpu"))
    refused = rf"{store.directory}: this store was made by another configuration: model differ(.|\n)*activations.dir"
    with pytest.raises(SaelabError, match=refused):
        cache(model=other)
    shutil.copytree(store.directory, tmp_path / "copied")
    with pytest.raises(SaelabError, match="made by another configuration: model differ"):
        cache(tmp_path / "copied", model=other)
    before = bytes_of(store.directory)
    theirs = cache(tmp_path / "theirs", model=other)
    shutil.copy(theirs.directory / "manifest.json", store.directory)
    mixed = Store(store.directory)  # as many rows of the same widths: sizes tell nothing
    with pytest.raises(SaelabError, match="this shard is damaged"):
        next(stored(mixed, "train", HOOK))
    assert {damage.kind for damage in verify(store.directory).damaged} == {"changed"}
    assert bytes_of(store.directory) | {"manifest.json": before["manifest.json"]} == before


def test_a_manifest_that_was_edited_or_cut(store, cache):
    manifest = store.directory / "manifest.json"
    before, text = bytes_of(store.directory), manifest.read_text()
    document = json.loads(text)
    document["content"]["capture"]["seed"] = 5
    manifest.write_text(json.dumps(document))
    assert [(damage.file, damage.kind) for damage in verify(store.directory).damaged] == [("manifest.json", "changed")]
    for broken in (text[: len(text) // 2], "[]", text.replace('"n_tokens"', '"n_tokns"')):
        manifest.write_text(broken)
        for reader in (Store, verify, info):
            with pytest.raises(SaelabError, match=r"manifest.json: (not a|this manifest is damaged)"):
                reader(store.directory)
    manifest.unlink()
    cache()
    assert bytes_of(store.directory) == before


# -- no room ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16", "loss_grad": True}, {"tokens": 3000, "hooks": (HOOK,)}])
def test_the_estimate_is_what_a_store_takes(cache, tmp_path, settings):
    rooms: list[Room] = []
    made = cache(announce=rooms.append, **settings)
    taken = sum(path.stat().st_size for path in made.directory.iterdir())
    assert rooms[0].missing_bytes == rooms[0].total_bytes
    assert taken * 0.95 < rooms[0].total_bytes < taken * 1.25
    cache(announce=rooms.append, **settings)
    assert len(rooms) == 1  # nothing is written, nothing is asked


def test_too_little_room_is_said_before_anything_is_written(cache, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(room_module.shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    with pytest.raises(SaelabError) as caught:
        cache(tmp_path / "deep" / "down")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'deep' / 'down'}: there is no room for these activations: they need about ")
    assert "MB more, and 0.3 MB are free\n  fix: fewer activations.tokens, activations.dtype: bfloat16" in text
    assert "activations.dir, or SAELAB_HOME" in text
    assert not (tmp_path / "deep").exists()


def test_a_resumed_capture_needs_room_for_what_is_missing_alone(store, cache):
    (store.directory / "manifest.json").unlink()
    index = store.directory / "shards.jsonl"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-4]))
    rooms: list[Room] = []
    cache(announce=rooms.append)
    written = sum(shard.bytes for shard in store.shards[-4:])
    assert written < rooms[0].missing_bytes < written * 1.5 + 4096 * 10
    assert rooms[0].missing_bytes < rooms[0].total_bytes / 2
    assert " of " in str(rooms[0])


def test_an_estimate_at_full_scale(tmp_path):
    spec = CaptureSpec(hooks=("a", "b"), tokens=100_000_000, heldout_tokens=1_000_000, loss_grad=True)
    found = estimate(tmp_path, [768, 768], spec, context_length=128)
    rows = 101_000_000 * (2 * 2 * 768 * 2 + 12)
    assert rows * 1.001 < found.total_bytes < rows * 1.005
    assert str(found).startswith("about 622.")


@pytest.mark.parametrize("after", [0, 3, 9])
def test_a_full_disk_while_caching(store, cache, tmp_path, monkeypatch, after):
    """Files may grow no further from the `after`-th on: the operating system itself refuses."""
    real, soft_hard = files.write_tensors, resource.getrlimit(resource.RLIMIT_FSIZE)
    calls = iter(range(1000))

    def write(path: Path, tensors: Any, metadata: Any = None) -> None:
        if next(calls) >= after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, soft_hard[1]))
        real(path, tensors, metadata)

    monkeypatch.setattr(files, "write_tensors", write)
    place = tmp_path / "again"
    try:
        with pytest.raises(SaelabError, match=r"again/(shard|contexts)-.*the disk is full(.|\n)*same command again"):
            cache(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
    assert not list(place.glob("*.tmp-*"))
    monkeypatch.setattr(files, "write_tensors", real)
    cache(place)
    assert bytes_of(place) == bytes_of(store.directory)


@pytest.mark.parametrize(
    ("after", "code"), [(0, errno.ENOSPC), (4, errno.ENOSPC), (5, errno.ENOSPC), (30, errno.ENOSPC), (30, errno.EIO)]
)
def test_a_disk_that_refuses_at_any_flush(store, cache, tmp_path, monkeypatch, after, code):
    """The index, contexts, shards: whichever file it is that finds no room."""
    real, calls = os.fsync, iter(range(10_000))

    def fail(handle: int) -> None:
        if next(calls) >= after and not os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(code, os.strerror(code))
        real(handle)

    place = tmp_path / "again"
    monkeypatch.setattr(os, "fsync", fail)
    expected = "the disk is full" if code == errno.ENOSPC else "Input/output error"
    with pytest.raises(SaelabError, match=rf"{place}.*could not write this file: {expected}"):
        cache(place)
    monkeypatch.setattr(os, "fsync", real)
    cache(place)
    assert bytes_of(place) == bytes_of(store.directory)


# -- a place where nothing can be written -----------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_written(store, cache, tmp_path, monkeypatch, code):
    """Whoever runs the tests may be allowed everything, so the refusal is made here."""
    real = Path.open

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    def open_to_read(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return refuse() if set(mode) & set("wa+") else real(self, mode, *rest, **more)

    (store.directory / CHECKED).unlink()
    monkeypatch.setattr(Path, "open", open_to_read)
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    place = tmp_path / "sealed"
    with pytest.raises(SaelabError, match=rf"{place}: could not write this file: {os.strerror(code)}"):
        cache(place)
    assert not place.exists()
    before = bytes_of(store.directory)
    opened = cache()  # a finished store is read where nothing can be written
    next(Loader(opened, HOOK, batch_tokens=3000))
    assert verify(store.directory).damaged == []
    assert bytes_of(store.directory) == before
    assert not (store.directory / CHECKED).exists()


# -- text that gives out ----------------------------------------------------------------------------------


def test_a_dataset_that_fails_in_the_middle_is_gone_on_with(store, cache, tmp_path, monkeypatch, tiny_text_file):
    rows = [json.loads(line) for line in tiny_text_file.read_text().splitlines()]

    class Remote:
        """A stream whose connection is lost."""

        column_names = ("text",)

        def select_columns(self, _: list[str]) -> Remote:
            return self

        def __iter__(self) -> Iterator[dict[str, str]]:
            yield from rows[:6]
            raise ConnectionError("the connection was reset")

    data = DataSpec(str(tiny_text_file))
    place = tmp_path / "again"
    monkeypatch.setattr(windows, "_BATCH_DOCUMENTS", 2)
    with monkeypatch.context() as broken:
        broken.setattr(corpus, "_rows", lambda spec, skip: corpus._dataset_rows(spec, None, skip))
        broken.setattr(corpus, "_load_repository", lambda *_: Remote())
        with pytest.raises(SaelabError, match=r"could not read this dataset: the connection was reset(.|\n)*fix"):
            cache(place, data=data)
    assert 0 < info(place).splits["train"].tokens < 2000
    cache(place, data=data)
    assert bytes_of(place) == bytes_of(store.directory)


def test_a_line_that_is_broken_in_the_middle(cache, tmp_path, tiny_text_file, monkeypatch):
    monkeypatch.setattr(windows, "_BATCH_DOCUMENTS", 2)
    lines = tiny_text_file.read_text().splitlines(keepends=True)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("".join([*lines[:6], lines[6][:30] + "\n", *lines[7:]]))
    with pytest.raises(SaelabError, match=rf"{broken}:7: this line is not JSON"):
        cache(data=DataSpec(str(broken)))
    assert verify(tmp_path / "store").damaged == []
    found = info(tmp_path / "store")
    assert (found.complete, found.created_by, found.hooks) == (False, None, {HOOK: None, HEADS: None})
    assert 0 < found.splits["train"].tokens < found.splits["train"].wanted_tokens == 2000  # type: ignore[operator]
    assert found.content["data"]["text_column"] == "text"


def test_empty_documents_leave_no_trace(store, cache, tmp_path, tiny_text_file):
    lines = tiny_text_file.read_text().splitlines(keepends=True)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("".join(line + '{"text": ""}\n{"text": " \\n"}\n' for line in lines))
    made = cache(tmp_path / "again", data=DataSpec(str(empty)))
    assert [shard.sha256 for shard in made.shards] == [shard.sha256 for shard in store.shards]


@pytest.mark.slow
def test_a_document_of_ten_megabytes_beside_others(cache, tmp_path, tiny_text_file):
    lines = tiny_text_file.read_text().splitlines(keepends=True)
    long = tmp_path / "long.jsonl"
    long.write_text("".join([json.dumps({"text": "a stone house by the river. " * 375_000}) + "\n", *lines]))
    assert long.stat().st_size > 10_000_000
    short = WindowSpec(context_length=32, heldout_frac=0.2, max_document_tokens=200)
    made = cache(data=DataSpec(str(long)), windows=short)
    documents = torch.cat([made.read(shard)["document"] for shard in made.shards])
    assert 150 < int((documents == 0).sum()) <= 200
    assert len(documents.unique()) > 10
