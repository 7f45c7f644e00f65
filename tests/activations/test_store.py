"""Capture, the store on disk, the loader: right rows, right order, continued exactly after a kill."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from saelab.activations import CaptureSpec, Loader, Store, capture, stored
from saelab.activations import capture as capture_function
from saelab.activations import loader as loader_module
from saelab.activations.capture import content, store_directory
from saelab.activations.store import loss_grad_name
from saelab.errors import SaelabError
from saelab.files import sha256_file
from saelab.lm.corpus import DataSpec
from saelab.lm.mask import Mask, MaskSpec
from saelab.lm.windows import WindowSpec

HOOK, HEADS = "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"
WINDOWS = WindowSpec(context_length=32, heldout_frac=0.2)


def spec(directory, **changes) -> CaptureSpec:
    values = {
        "hooks": (HOOK, HEADS),
        "tokens": 2000,
        "heldout_tokens": 300,
        "dtype": "float32",
        "shuffle_contexts": 16,
        "shard_bytes": 60_000,
        "dir": str(directory),
    }
    return CaptureSpec(**(values | changes))


def files_of(directory):
    return {p.name: sha256_file(p) for p in sorted(directory.iterdir()) if not p.name.startswith(".")}


@pytest.fixture
def store_with_gradients(lm, tiny_text_file, tmp_path):
    place = spec(tmp_path / "gradients", loss_grad=True)
    return capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), place)


def in_order(rows):
    """Rows in an order of their own, whatever it was."""
    return rows[np.lexsort(np.asarray(rows).T)]


def rows_of(store, split):
    parts = [store.read(shard) for shard in store.of(split)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_rows_are_the_models_activations_of_their_context_and_position(store, lm):
    for split in ("train", "heldout"):
        rows = rows_of(store, split)
        contexts = [c for part in store.contexts(split) for c in part.tokens]
        for i in range(0, len(rows["context"]), 37):
            tokens = contexts[rows["context"][i]][None].long()
            fresh = lm.capture(tokens, [lm.hook(HOOK), lm.hook(HEADS)])
            for hook in (HOOK, HEADS):
                torch.testing.assert_close(rows[hook][i], fresh[hook][0, rows["position"][i]], rtol=1e-4, atol=1e-5)


def test_every_kept_position_is_stored_once_and_masked_ones_never(store, lm):
    mask = Mask.of(MaskSpec(), lm.tokenizer)
    assert store.mask == mask
    for split in ("train", "heldout"):
        rows = rows_of(store, split)
        found = set(zip(rows["context"].tolist(), rows["position"].tolist(), strict=True))
        tokens = torch.cat([part.tokens for part in store.contexts(split)])
        assert found == {tuple(pair) for pair in mask.keep_tokens(tokens).nonzero().tolist()}
        assert len(found) == store.n_tokens(split)
    assert store.n_tokens("train") >= 2000
    assert store.n_tokens("heldout") >= 300


def test_documents_never_straddle_the_split(store):
    train, heldout = (set(rows_of(store, split)["document"].tolist()) for split in ("train", "heldout"))
    assert train
    assert heldout
    assert not train & heldout


def test_rows_are_shuffled_across_the_window_and_shards_are_bounded(store):
    first = store.read(store.of("train")[0])
    assert len(set(first["context"][:10].tolist())) > 3
    assert max(shard.bytes for shard in store.shards) <= 60_000 + 4096
    assert max(shard.n_contexts for shard in store.shards) <= 16


def test_scaling_centres_and_gives_a_mean_norm_of_sqrt_d(store):
    x = rows_of(store, "train")[HOOK]
    torch.testing.assert_close(store.mean(HOOK), x.double().mean(0).float())
    scaled = store.scaling(HOOK).apply(x)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    assert scaled.norm(dim=1).mean().item() == pytest.approx(32**0.5, rel=1e-4)
    assert store.scaling(HOOK, centre=False).apply(x).norm(dim=1).mean().item() == pytest.approx(32**0.5, rel=1e-4)
    assert store.scaling(HOOK, centre=False, scale=False).factor == 1.0


def test_the_same_call_opens_the_finished_store(store, lm, tiny_text_file):
    before = files_of(store.directory)
    again = capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), spec(store.directory))
    assert again.manifest == store.manifest
    assert files_of(store.directory) == before


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize(
    ("after", "loss_grad"), [(1, False), (2, False), (3, False), (5, False), (8, False), (4, True)]
)
def test_killed_anywhere_the_same_call_continues_to_the_same_bytes(
    request, lm, tiny_text_file, tmp_path, monkeypatch, after, loss_grad
):
    from saelab import files

    undisturbed = files_of(request.getfixturevalue("store_with_gradients" if loss_grad else "store").directory)
    real = files.write_tensors
    count = {"left": after}

    def write_then_die(path, tensors, metadata=None):
        if count["left"] == 0:
            path.with_name(path.name + ".tmp-dead").write_bytes(b"half")
            raise Killed
        count["left"] -= 1
        real(path, tensors, metadata)

    place = tmp_path / "again"
    arguments = (lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), spec(place, loss_grad=loss_grad))
    monkeypatch.setattr(files, "write_tensors", write_then_die)
    with pytest.raises(Killed):
        capture_function(*arguments)
    monkeypatch.setattr(files, "write_tensors", real)
    assert not (place / "manifest.json").exists()
    capture_function(*arguments)
    assert files_of(place) == undisturbed


def test_a_half_written_index_line_is_dropped(store, lm, tiny_text_file):
    index = store.directory / "shards.jsonl"
    manifest = (store.directory / "manifest.json").read_text()
    lines = index.read_text().splitlines()
    (store.directory / "manifest.json").unlink()
    index.write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])
    again = capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), spec(store.directory))
    assert json.loads(manifest) == again.manifest


def test_two_configurations_do_not_share_a_directory(store, lm, tiny_text_file):
    data = DataSpec(str(tiny_text_file))
    with pytest.raises(SaelabError, match=r"made by another configuration: capture differ(.|\n)*activations.dir"):
        capture(lm, data, WINDOWS, MaskSpec(), spec(store.directory, tokens=1000))
    with pytest.raises(SaelabError, match="mask, windows differ"):
        capture(lm, data, WindowSpec(16, heldout_frac=0.2), MaskSpec(first_position=False), spec(store.directory))
    (store.directory / "manifest.json").unlink()
    with pytest.raises(SaelabError, match="the beginning of a store made by another configuration"):
        capture(lm, data, WINDOWS, MaskSpec(), spec(store.directory, tokens=1000))


def test_damage_is_named(store, tmp_path):
    def damaged(change):
        place = tmp_path / "damaged"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(store.directory, place)
        change(place / store.shards[0].file)
        return place

    with pytest.raises(SaelabError, match=r"this shard is damaged: \d+ bytes, the manifest says \d+"):
        Store(damaged(lambda p: p.write_bytes(p.read_bytes()[:-10])))
    with pytest.raises(SaelabError, match="this shard is missing"):
        Store(damaged(lambda p: p.unlink()))
    with pytest.raises(SaelabError, match="there is no complete activation store here"):
        Store(tmp_path)
    with pytest.raises(SaelabError, match=r"does not hold 'blocks.1.hook_resid_pst'(.|\n)*did you mean"):
        store.width("blocks.1.hook_resid_pst")


def test_settings_and_text_that_cannot_work(lm, tiny_text_file, tmp_path):
    data = DataSpec(str(tiny_text_file))
    with pytest.raises(SaelabError, match="is more than this model's 64 tokens"):
        capture(lm, data, WindowSpec(65), MaskSpec(), spec(tmp_path / "a"))
    with pytest.raises(SaelabError, match="unknown hook"):
        capture(lm, data, WINDOWS, MaskSpec(), spec(tmp_path / "a", hooks=("blocks.9.hook_resid_post",)))
    assert not (tmp_path / "a").exists()
    with pytest.raises(SaelabError, match="no heldout tokens"):
        capture(lm, data, WindowSpec(32, heldout_frac=1e-9), MaskSpec(), spec(tmp_path / "b"))
    with pytest.raises(SaelabError, match="name one hook or more"):
        spec(tmp_path, hooks=())
    with pytest.raises(SaelabError, match="a hook is named twice"):
        spec(tmp_path, hooks=(HOOK, HOOK))
    with pytest.raises(SaelabError, match="tokens: must be at least 1, found 0"):
        spec(tmp_path, tokens=0)


def test_activations_that_are_not_finite_are_refused(lm, tiny_text_file, tmp_path, monkeypatch):
    real = lm.capture
    monkeypatch.setattr(lm, "capture", lambda *a: {k: v.clone().fill_(float("nan")) for k, v in real(*a).items()})
    with pytest.raises(SaelabError, match=r"not all finite(.|\n)*model.dtype: float32"):
        capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), spec(tmp_path / "s"))


def test_the_norm_filter_is_fixed_once_counted_and_survives_a_restart(lm, tiny_text_file, tmp_path):
    mask = MaskSpec(max_norm_ratio=1.02)
    made = capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, mask, spec(tmp_path / "a", hooks=(HOOK,)))
    by_token = Mask.of(MaskSpec(), lm.tokenizer)
    limit = made.mask.norm_limits[HOOK]
    assert rows_of(made, "train")[HOOK].norm(dim=1).max() <= limit
    counts = made.manifest["masked_tokens"]["train"]
    unfiltered = sum(int(by_token.keep_tokens(part.tokens).sum()) for part in made.contexts("train"))
    assert counts["norm"] == unfiltered - made.n_tokens("train") > 0
    assert counts["position_or_special"] == sum(part.tokens.numel() for part in made.contexts("train")) - unfiltered
    before = files_of(made.directory)
    (made.directory / "manifest.json").unlink()
    kept = (made.directory / "shards.jsonl").read_text().splitlines()[:2]
    (made.directory / "shards.jsonl").write_text("\n".join(kept) + "\n")
    capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, mask, spec(tmp_path / "a", hooks=(HOOK,)))
    assert files_of(made.directory) == before


def test_only_one_process_writes(lm, tiny_text_file, tmp_path):
    import fcntl

    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SaelabError, match="another process is writing this store"):
            capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), spec(tmp_path / "s"))


def test_a_directory_with_other_files_is_not_touched(lm, tiny_text_file, tmp_path):
    (tmp_path / "thesis.tmp-1").write_text("precious")
    with pytest.raises(SaelabError, match=r"files that are not an activation store's(.|\n)*new directory"):
        capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), spec(tmp_path))
    assert (tmp_path / "thesis.tmp-1").read_text() == "precious"


def test_killed_at_the_first_line_of_the_index_it_still_begins(store, lm, tiny_text_file, tmp_path):
    place = tmp_path / "again"
    place.mkdir()
    (place / "shards.jsonl.tmp-0badcafe").write_text('{"content')
    capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), spec(place))
    assert files_of(place) == files_of(store.directory)


def test_default_directory_is_named_by_content(own_cache):
    place = store_directory(spec("x", dir=None), {"a": 1})
    assert place.parent == own_cache / "activations"
    assert place != store_directory(spec("x", dir=None), {"a": 2})


# -- gradients of the loss ------------------------------------------------------------------------------


def test_gradients_lie_beside_their_activations(store, store_with_gradients, lm):
    made, hooks = store_with_gradients, [lm.hook(HOOK), lm.hook(HEADS)]
    assert made.has_loss_grad
    assert made.manifest["loss_grad"] is True
    assert not store.has_loss_grad
    assert max(shard.bytes for shard in made.shards) <= 60_000 + 4096
    rows, contexts = rows_of(made, "train"), [c for part in made.contexts("train") for c in part.tokens]
    for i in range(0, len(rows["context"]), 97):
        tokens = contexts[rows["context"][i]][None].long()
        _, fresh = lm.capture_with_loss_grad(tokens, torch.tensor([32]), hooks)
        for hook in (HOOK, HEADS):
            expected = fresh[hook][0, rows["position"][i]]
            torch.testing.assert_close(rows[loss_grad_name(hook)][i], expected, rtol=1e-3, atol=1e-5)


def test_gradients_change_nothing_else_in_a_store(store, store_with_gradients):
    for split in ("train", "heldout"):
        plain, both = rows_of(store, split), rows_of(store_with_gradients, split)
        assert both.keys() - plain.keys() == {loss_grad_name(HOOK), loss_grad_name(HEADS)}
        assert all(torch.equal(plain[name], both[name]) for name in plain)
    assert store.manifest["scaling"] == store_with_gradients.manifest["scaling"]


def test_without_gradients_a_store_is_named_as_before_there_were_any(lm, tiny_text_file):
    arguments = (lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec())
    plain = content(*arguments, spec("x"))
    assert list(plain["capture"]) == [
        "hooks", "tokens", "heldout_tokens", "dtype", "batch_contexts", "shuffle_contexts", "shard_bytes", "seed"
    ]  # fmt: skip
    assert content(*arguments, spec("x", loss_grad=True))["capture"] == plain["capture"] | {"loss_grad": True}


def test_a_short_contexts_padding_is_not_stored_and_does_not_count(lm, tiny_text_file, tmp_path):
    window = WindowSpec(context_length=48, packing="per_document", heldout_frac=0.2, max_document_tokens=60)
    place = spec(tmp_path / "s", tokens=600, heldout_tokens=50, hooks=(HOOK,), dtype="bfloat16", loss_grad=True)
    made = capture(lm, DataSpec(str(tiny_text_file)), window, MaskSpec(), place)
    rows, parts = rows_of(made, "train"), list(made.contexts("train"))
    tokens, length = (torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "length"))
    short = (length < 48).nonzero()[0, 0]
    assert (rows["position"] < length[rows["context"]]).all()
    mine = rows["context"] == short
    fresh = lm.capture_with_loss_grad(tokens[short, : length[short]][None].long(), length[short][None], [lm.hook(HOOK)])
    assert mine.sum() == length[short] - 1  # all but BOS
    found = rows[loss_grad_name(HOOK)][mine]
    assert found.dtype == torch.bfloat16
    expected = fresh[1][HOOK][0, rows["position"][mine]]
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=1e-4)


def test_gradients_that_are_not_finite_are_refused(lm, tiny_text_file, tmp_path, monkeypatch):
    real = lm.capture_with_loss_grad

    def overflowing(*arguments):
        activations, gradients = real(*arguments)
        return activations, {name: value * float("inf") for name, value in gradients.items()}

    monkeypatch.setattr(lm, "capture_with_loss_grad", overflowing)
    with pytest.raises(SaelabError, match=r"gradients at blocks.1.hook_resid_post are not all finite(.|\n)*float32"):
        capture(lm, DataSpec(str(tiny_text_file)), WINDOWS, MaskSpec(), spec(tmp_path / "s", loss_grad=True))


def test_gradients_asked_of_a_store_without_them(store, store_with_gradients):
    missing = r"holds no gradients of the loss(.|\n)*cache again with `activations: \{loss_grad: true\}`"
    with pytest.raises(SaelabError, match=missing) as caught:
        Loader(store, HOOK, batch_tokens=40, loss_grad=True)
    assert str(store.directory) in str(caught.value)
    with pytest.raises(SaelabError, match=missing):
        next(stored(store, "heldout", HOOK, loss_grad=True))
    manifest = store.directory / "manifest.json"
    manifest.write_text(json.dumps(store.manifest | {"loss_grad": True}))
    with pytest.raises(SaelabError, match=r"expected loss_grad/blocks.1.hook_resid_post of shape \[\d+, 32\]"):
        next(stored(Store(store.directory), "train", HOOK))


def test_the_loader_serves_the_targets_gradients_where_asked(store_with_gradients):
    made = store_with_gradients
    rows = rows_of(made, "train")
    for target in (None, HEADS):
        plain, asked = (
            next(Loader(made, HOOK, target_hook=target, batch_tokens=100, mix_shards=1, loss_grad=wanted))
            for wanted in (False, True)
        )
        assert not plain.side
        assert asked.side.keys() == {"loss_grad"}
        assert torch.equal(plain.input, asked.input)
        gradients = rows[loss_grad_name(target or HOOK)]
        for x, gradient in zip(asked.input, asked.side["loss_grad"], strict=True):
            same_text_so_far = (rows[HOOK] == x).all(1)  # of several such rows each has its own gradient
            assert (same_text_so_far & (gradients == gradient).all(1)).sum() == 1
    parts = [batch.side["loss_grad"] for batch in stored(made, "train", HOOK, loss_grad=True)]
    assert torch.equal(torch.cat(parts), rows[loss_grad_name(HOOK)])


# -- the loader ---------------------------------------------------------------------------------------


def test_an_epoch_serves_every_row_once_in_another_order_each_time(store):
    loader = Loader(store, HOOK, batch_tokens=64, mix_shards=2)
    expected = rows_of(store, "train")[HOOK]
    n = expected.shape[0]
    seen = torch.cat([next(loader).input for _ in range(2 * n // 64 + 2)])
    first, second = seen[:n], seen[n : 2 * n]
    assert torch.equal(in_order(first), in_order(expected))
    assert torch.equal(in_order(second), in_order(expected))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("steps", [0, 1, 7, 40, 75])
def test_a_restored_loader_serves_the_same_rows(store, steps):
    straight = Loader(store, HOOK, batch_tokens=50, mix_shards=3, seed=4)
    for _ in range(steps):
        next(straight)
    restored = Loader(store, HOOK, batch_tokens=50, mix_shards=3, seed=4)
    restored.load_state_dict(straight.state_dict())
    for _ in range(5):
        assert torch.equal(next(straight).input, next(restored).input)
    with pytest.raises(SaelabError, match="of seed 4, the loader's is 5"):
        Loader(store, HOOK, batch_tokens=50, seed=5).load_state_dict(straight.state_dict())
    older = {"served_tokens": 50, "seed": 4}
    with pytest.raises(
        SaelabError, match=r"of another version of saelab, whose loader .* another order\n  fix: go on with"
    ):
        restored.load_state_dict(older)


def test_input_and_target_are_one_tensor_for_an_autoencoder_and_rows_match_for_a_transcoder(store):
    batch = next(Loader(store, HOOK, batch_tokens=40))
    assert batch.target is batch.input
    pair = next(Loader(store, HOOK, target_hook=HEADS, batch_tokens=40))
    assert torch.equal(pair.input, batch.input)
    rows = rows_of(store, "train")
    for x, target in zip(pair.input, pair.target, strict=True):
        i = int((rows[HOOK] == x).all(1).nonzero()[0, 0])
        assert torch.equal(rows[HEADS][i], target)


@pytest.mark.parametrize(("mix", "target", "loss_grad"), [(1, None, False), (3, HEADS, True), (50, HOOK, True)])
def test_the_sequence_of_rows_is_what_it_always_was(store_with_gradients, mix, target, loss_grad):
    """Runs go on across versions: this is the order, written out. Another one is another `_ORDER`."""
    assert loader_module._ORDER == 2
    store, seed, size = store_with_gradients, 4, 130

    def cut(shard, k, parts):
        return {name: rows[len(rows) * k // parts : len(rows) * (k + 1) // parts] for name, rows in shard.items()}

    shards, expected = [store.read(shard) for shard in store.of("train")], []
    for epoch in range(3):
        order = np.random.default_rng([seed, 1, epoch]).permutation(len(shards))
        groups = np.array_split(order, -(-len(shards) // (16 * mix)))
        assert [len(group) for group in groups] == ([11, 10] if mix == 1 else [21])
        parts = -(-len(groups[0]) // mix)
        for group, members in enumerate(groups):
            turns = np.tile(np.arange(parts), (len(members), 1))
            turns = np.random.default_rng([seed, 3, epoch, group]).permuted(turns, axis=1)
            for number in range(parts):
                slices = [cut(shards[member], turns[i, number], parts) for i, member in enumerate(members)]
                rows = {name: torch.cat([part[name] for part in slices]) for name in slices[0]}
                inside = np.random.default_rng([seed, 2, epoch, group, number]).permutation(len(rows["context"]))
                expected.append({name: value[inside] for name, value in rows.items()})
    loader = Loader(store, HOOK, target_hook=target, batch_tokens=size, mix_shards=mix, seed=seed, loss_grad=loss_grad)
    batches = [next(loader) for _ in range(3 * store.n_tokens("train") // size)]  # kept while memory is used again
    for name, found in (
        (HOOK, torch.cat([batch.input for batch in batches])),
        (target or HOOK, torch.cat([batch.target for batch in batches])),
        *([(loss_grad_name(target or HOOK), torch.cat([b.side["loss_grad"] for b in batches]))] if loss_grad else []),
    ):
        assert torch.equal(found, torch.cat([part[name] for part in expected])[: len(found)])
    assert {id(batch.target) == id(batch.input) for batch in batches} == {target in (None, HOOK)}


def test_the_next_shards_are_asked_for_and_only_what_is_needed_of_them(store, monkeypatch):
    import os

    from saelab.files import read_ahead

    asked = []

    def advise(handle, begin, size, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        asked.append((os.readlink(f"/proc/self/fd/{handle}"), os.pread(handle, size, begin)))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    n_shards, n_rows = len(store.of("train")), len(rows_of(store, "train")[HOOK])
    loader = Loader(store, HOOK, batch_tokens=1, mix_shards=math.ceil(n_shards / 2))  # an epoch has two blocks
    first = next(loader).input
    assert [file for file, _ in asked] == list(dict.fromkeys(file for file, _ in asked))
    assert {file for file, _ in asked} == {str(store.directory / shard.file) for shard in store.of("train")}
    coming = np.frombuffer(b"".join(raw for _, raw in asked), first.numpy().dtype).reshape(-1, first.shape[1])
    epoch = np.concatenate([first.numpy(), *(next(loader).input.numpy() for _ in range(n_rows - 1))])
    assert np.array_equal(in_order(coming), in_order(epoch[n_rows - len(coming) :]))
    (store.directory / "broken").write_bytes(b"\x05\0\0\0\0\0\0\0{}")
    for name in ("broken", "absent"):
        read_ahead(store.directory / name, [HOOK], range(1))  # its reader will say


def test_a_batch_larger_than_the_store_runs_over_epochs(store):
    assert next(Loader(store, HOOK, batch_tokens=5000)).input.shape == (5000, 32)


def test_stored_walks_a_split_once(store):
    assert sum(batch.input.shape[0] for batch in stored(store, "heldout", HOOK)) == store.n_tokens("heldout")
