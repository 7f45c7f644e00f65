"""Batches straight from the model: the right rows in one order whatever the timing, continued exactly, stopped soon."""

import gc
import json
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from saelab.activations import CaptureSpec, Loader, capture
from saelab.activations.forward import pad
from saelab.activations.loader import Wanted
from saelab.activations.source import SOURCES, FromStore, FromStream, Text
from saelab.activations.stream import Blocks, Stream, _Ahead
from saelab.errors import SaelabError
from saelab.lm.corpus import DataSpec, Document, Place, documents
from saelab.lm.mask import Mask, MaskSpec
from saelab.lm.windows import WindowSpec, windows

HOOK, HEADS = "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"
WINDOWS = WindowSpec(context_length=32, heldout_frac=0.2)
WANTED = Wanted(HOOK, None, loss_grad=False, batch_tokens=62, mix_shards=2, seed=3)
BLOCK = 16 * 31
"""Rows of a whole block: 16 contexts, each but for its first position."""
ALL_BUT_THE_FIRST = MaskSpec(special_tokens=False)


def spec(directory, **changes) -> CaptureSpec:
    base = CaptureSpec((HOOK, HEADS), tokens=10**6, heldout_tokens=100, dtype="float32", batch_contexts=4)
    return replace(base, dir=str(directory), **changes)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    from saelab.testing.tiny import tiny_text

    return tiny_text(tmp_path_factory.mktemp("stream") / "text.jsonl", documents=20, words=30)


@pytest.fixture
def make(lm, text_file, tmp_path):
    """A stream and the store beside it, from settings of all kinds."""
    opened: list[Stream] = []

    def make(
        *,
        data=None,
        window=WINDOWS,
        mask=ALL_BUT_THE_FIRST,
        wanted=WANTED,
        buffer_tokens=520,
        ahead=True,
        **capture_settings,
    ):
        source = FromStream(buffer_tokens=buffer_tokens, sample_tokens=200)
        place = spec(tmp_path / f"sample-{len(opened)}", **capture_settings)
        text = Text(lambda: lm, data or DataSpec(str(text_file)), window)
        store = capture(lm, text.data, window, mask, source.capture_spec(place))
        made = source.batches(store, wanted, text, place)
        assert isinstance(made, Stream)
        opened.append(Stream(made.blocks, batch_tokens=wanted.batch_tokens, ahead=ahead))
        return opened[-1], store

    yield make
    for stream in opened:
        stream.close()
    assert not threads()


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "saelab-stream"]


def again(stream, **changes) -> Stream:
    """Another stream of the same blocks."""
    return Stream(stream.blocks, **({"batch_tokens": stream.batch_tokens, "ahead": True} | changes))


def take(stream, batches):
    return torch.cat([next(stream).input for _ in range(batches)])


def contexts_of(lm, data, window):
    """All training contexts at once: tokens, and how many are real."""
    found = [w for w in windows(documents(data), lm.tokenizer, window) if w.split == "train"]
    return pad(found, window.context_length)


def rows_in_text_order(lm, contexts, mask, values):
    """By block of 16 contexts, the kept rows of `[context, position, d_hook]`."""
    keep = mask.keep_tokens(contexts.tokens) & (contexts.documents >= 0)
    return [values[i : i + 16][keep[i : i + 16]] for i in range(0, len(keep), 16)]


def in_seeded_order(blocks, epochs, seed=3):
    """What a stream should serve."""
    rows = []
    for epoch in range(epochs):
        for number, block in enumerate(blocks):
            rows.append(block[np.random.default_rng([seed, 3, epoch, number]).permutation(len(block))])
    return torch.cat(rows)


def sorted_rows(x):
    return x[np.lexsort(x.float().T.numpy())]


# -- what is served ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["concat", "per_document"])
@pytest.mark.parametrize("ahead", [True, False])
def test_every_epoch_serves_each_train_row_once_in_the_order_of_the_seed(make, lm, text_file, packing, ahead):
    window = WindowSpec(32, packing, heldout_frac=0.2, max_document_tokens=70)
    stream, store = make(window=window, mask=MaskSpec(), ahead=ahead)
    contexts = contexts_of(lm, DataSpec(str(text_file)), window)
    values = lm.capture(contexts.tokens.long(), [lm.hook(HOOK)])[HOOK]
    expected = in_seeded_order(rows_in_text_order(lm, contexts, store.mask, values), epochs=3)
    batches = len(expected) // 62
    torch.testing.assert_close(take(stream, batches), expected[: batches * 62], rtol=1e-4, atol=1e-5)
    assert stream.state_dict()["epoch"] == 2
    assert stream.state_dict()["served_tokens"] == batches * 62


def test_a_stream_serves_the_rows_that_a_store_of_all_the_text_holds(make, lm, text_file, tmp_path):
    stream, _ = make(dtype="bfloat16")
    whole = capture(lm, DataSpec(str(text_file)), WINDOWS, ALL_BUT_THE_FIRST, spec(tmp_path / "all", dtype="bfloat16"))
    stored = torch.cat([whole.read(shard)[HOOK] for shard in whole.of("train")])
    epochs = again(stream, batch_tokens=len(stored))
    first = next(epochs).input
    assert first.dtype == torch.bfloat16
    at_the_end = again(stream, batch_tokens=len(stored))
    at_the_end.load_state_dict(epochs.state_dict())
    second = next(epochs).input
    assert torch.equal(second, next(at_the_end).input)
    assert torch.equal(sorted_rows(first), sorted_rows(stored))
    assert torch.equal(sorted_rows(second), sorted_rows(stored))
    assert not torch.equal(first, second)


def test_another_seed_is_another_order_of_the_same_block(make):
    stream, _ = make()
    other = Stream(replace(stream.blocks, seed=4), batch_tokens=BLOCK, ahead=True)
    mine, others = next(again(stream, batch_tokens=BLOCK)).input, next(other).input
    assert not torch.equal(mine, others)
    assert torch.equal(sorted_rows(mine), sorted_rows(others))


@pytest.mark.parametrize("target", [None, HEADS])
def test_targets_and_gradients_are_of_the_same_token(make, lm, text_file, target):
    stream, store = make(wanted=replace(WANTED, target_hook=target, loss_grad=True), loss_grad=True)
    contexts = contexts_of(lm, DataSpec(str(text_file)), WINDOWS)
    hooks = [lm.hook(HOOK), lm.hook(HEADS)]
    values, gradients = lm.capture_with_loss_grad(contexts.tokens.long(), contexts.length, hooks)

    def expected(of):
        return in_seeded_order(rows_in_text_order(lm, contexts, store.mask, of), epochs=1)[: 10 * 62]

    served = [next(stream) for _ in range(10)]
    pairs = [
        ([batch.input for batch in served], values[HOOK]),
        ([batch.target for batch in served], values[target or HOOK]),
        ([batch.side["loss_grad"] for batch in served], gradients[target or HOOK]),
    ]
    for found, of in pairs:
        torch.testing.assert_close(torch.cat(found), expected(of), rtol=1e-3, atol=1e-5)
    assert (served[0].input is served[0].target) == (target is None)
    assert not make()[0].blocks.columns.loss_grad


def test_a_norm_limit_at_a_hook_that_is_not_served_counts_too(make, lm, text_file):
    stream, store = make(mask=MaskSpec(max_norm_ratio=1.05))
    contexts = contexts_of(lm, DataSpec(str(text_file)), WINDOWS)
    values = lm.capture(contexts.tokens.long(), [lm.hook(HOOK), lm.hook(HEADS)])
    keep = store.mask.keep_tokens(contexts.tokens)
    for hook in (HOOK, HEADS):
        within = values[hook].norm(dim=-1) <= store.mask.norm_limits[hook]
        assert not within[keep].all()
        keep &= within
    rows = values[HOOK][keep]
    served = next(again(stream, batch_tokens=len(rows))).input
    torch.testing.assert_close(sorted_rows(served), sorted_rows(rows), rtol=1e-4, atol=1e-5)


def test_a_batch_may_be_longer_than_an_epoch(make):
    stream, _ = make()
    assert torch.equal(next(again(stream, batch_tokens=6200, ahead=False)).input, take(stream, 100))


def test_buffers_are_the_same_memory_whatever_the_length_of_the_text(make, monkeypatch):
    stream, _ = make()
    run, seen = Blocks.run, []

    def watched(self, begin, worker):
        for block in run(self, begin, worker):
            seen.append(block.buffer[HOOK].data_ptr())
            yield block

    monkeypatch.setattr(Blocks, "run", watched)
    assert stream.blocks.contexts == 16
    for ahead, buffers in ((True, 2), (False, 1)):
        seen.clear()
        made = again(stream, ahead=ahead)
        take(made, 30 * BLOCK // 62)
        made.close()
        assert len(seen) >= 30
        assert len(set(seen)) == buffers


def test_others_may_use_the_model_meanwhile(make, lm):
    stream, _ = make()
    expected = take(again(stream, ahead=False), 80)
    tokens = torch.randint(3, 90, (4, 32))
    plain = lm.logits(tokens)
    second, served = again(stream), []
    for _ in range(40):
        served.append(take(stream, 2))
        assert torch.equal(served[-1], take(second, 2))
        with lm.edited(lm.hook(HOOK), torch.zeros_like):
            assert not torch.equal(lm.logits(tokens), plain)
        assert torch.equal(lm.logits(tokens), plain)
    assert torch.equal(torch.cat(served), expected)


# -- going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["concat", "per_document"])
@pytest.mark.parametrize(("batch_tokens", "every"), [(62, 5), (50, 9), (BLOCK, 1), (700, 2)])
def test_a_restored_stream_serves_the_same_bits(make, packing, batch_tokens, every):
    stream, _ = make(window=replace(WINDOWS, packing=packing))
    straight = again(stream, batch_tokens=batch_tokens)
    states, served = [], []
    while straight.state_dict()["epoch"] < 2 or len(served) < 4:
        states.append(json.dumps(straight.state_dict()))
        served.append(next(straight).input)
    straight.close()
    for number in range(0, len(states) - 2, every):
        restored = again(stream, batch_tokens=batch_tokens, ahead=number % 2 == 0)
        restored.load_state_dict(json.loads(states[number]))
        assert json.loads(json.dumps(restored.state_dict())) == json.loads(states[number])
        for later in range(number, number + 2):
            assert torch.equal(next(restored).input, served[later])
        restored.close()
    assert max(map(len, states)) < 1000


def test_restoring_computes_the_block_again_that_was_being_served_and_none_before(make, lm, monkeypatch):
    stream, _ = make(ahead=False)
    take(stream, 2 * BLOCK // 62 + 3)  # into the third block
    state = stream.state_dict()
    assert (state["block"], state["block_tokens"]) == (2, 3 * 62)
    real, calls = lm.capture, []
    monkeypatch.setattr(lm, "capture", lambda tokens, hooks: calls.append(len(tokens)) or real(tokens, hooks))
    restored = again(stream, ahead=False)
    restored.load_state_dict(state)
    assert torch.equal(next(restored).input, next(stream).input)
    assert calls == [4, 4, 4, 4]


def test_a_stream_that_is_moved_back_or_closed_goes_on_exactly(make):
    stream, _ = make()
    take(stream, 5)
    state = stream.state_dict()
    expected = take(stream, 40)
    stream.load_state_dict(state)
    assert torch.equal(take(stream, 11), expected[: 11 * 62])
    stream.close()
    stream.close()
    assert stream.state_dict()["served_tokens"] == 16 * 62
    assert torch.equal(take(stream, 29), expected[11 * 62 :])


def test_a_state_of_another_stream_is_refused(make):
    stream, _ = make()
    take(stream, 6)
    state = stream.state_dict()
    with pytest.raises(SaelabError, match="source: this state is of seed 3, the stream's is 4"):
        Stream(replace(stream.blocks, seed=4), batch_tokens=62, ahead=True).load_state_dict(state)
    with pytest.raises(SaelabError, match="source: this state is of block_contexts 16, the stream's is 8"):
        Stream(replace(stream.blocks, contexts=8), batch_tokens=62, ahead=True).load_state_dict(state)
    stream.load_state_dict(state | {"block_tokens": BLOCK + 1})
    with pytest.raises(SaelabError, match="a block is shorter than it was: text, model or mask have changed"):
        next(stream)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_dataset_of_the_datasets_library(make, lm, text_file, tmp_path, monkeypatch, streaming):
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    lines = text_file.read_text().splitlines(keepends=True)
    (tmp_path / "repository").mkdir()
    for part in range(3):
        blank = json.dumps({"text": " "}) + "\n"
        text = "".join(blank + line for line in lines[7 * part : 7 * part + 7])
        (tmp_path / "repository" / f"train-0000{part}-of-00003.jsonl").write_text(text)
    plain, _ = make()
    expected = take(plain, 60)
    data = DataSpec(str(tmp_path / "repository"), streaming=streaming)
    stream, _ = make(data=data)
    assert torch.equal(take(stream, 31), expected[: 31 * 62])
    state = stream.state_dict()
    assert state["text"]["place"]["rows"] == 2 * state["text"]["place"]["documents"] + 1 > 1
    restored = again(stream)
    restored.load_state_dict(json.loads(json.dumps(state)))
    assert torch.equal(take(restored, 29), expected[31 * 62 :])
    restored.close()


# -- what goes wrong -------------------------------------------------------------------------------------


def broken_off(stream, documents_before, error) -> Blocks:
    """The same blocks of a text that raises after some documents."""

    def broken(place):
        for document in stream.blocks.documents(place):
            if document.index == documents_before:
                raise error
            yield document

    return replace(stream.blocks, documents=broken)


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("error", [SaelabError("row 33 is not text", where="a.jsonl"), RuntimeError("connection lost")])
def test_text_that_raises_in_the_middle_is_an_error_with_its_own_words(make, lm, text_file, ahead, error):
    stream, _ = make()
    texts = [document.text for document in documents(DataSpec(str(text_file)))]
    long = [Document(i, None, f"{texts[i % 20]} {i}", i) for i in range(70)]
    many = replace(stream.blocks, documents=lambda place: long[place.documents :])
    whole = Stream(many, batch_tokens=62, ahead=False)
    fragile = Stream(broken_off(whole, 66, error), batch_tokens=62, ahead=ahead)
    served = 0

    def serve():
        nonlocal served
        while torch.equal(next(fragile).input, next(whole).input):
            served += 1

    with pytest.raises(type(error)) as caught:
        serve()
    assert caught.value is error
    assert served >= 2 * BLOCK // 62
    assert not threads()
    state = fragile.state_dict()
    assert state["served_tokens"] == served * 62
    with pytest.raises(type(error)):
        next(fragile)
    assert fragile.state_dict() == state
    mended = Stream(many, batch_tokens=62, ahead=ahead)
    mended.load_state_dict(state)
    whole.load_state_dict(state)
    assert torch.equal(take(mended, 20), take(whole, 20))
    mended.close()


def test_a_line_that_is_not_json_is_named(make, text_file, tmp_path):
    lines = (text_file.read_text().splitlines() * 4)[:70]
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([*lines, '{"text": ']) + "\n")
    stream, _ = make(data=DataSpec(str(broken)))
    with pytest.raises(SaelabError, match=r"broken.jsonl:71: this line is not JSON"):
        take(stream, 1000)
    assert stream.state_dict()["served_tokens"] >= 5 * BLOCK


@pytest.mark.parametrize("ahead", [True, False])
def test_activations_that_are_not_finite_are_refused(make, lm, monkeypatch, ahead):
    stream, _ = make(ahead=ahead)
    next(stream)
    stream.close()
    real = lm.capture
    monkeypatch.setattr(lm, "capture", lambda *a: {k: v.clone().fill_(float("nan")) for k, v in real(*a).items()})
    with pytest.raises(SaelabError, match=r"not all finite(.|\n)*model.dtype: float32"):
        take(stream, 100)
    assert not threads()


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("heldout_frac", [0.2, 1 - 1e-9])
def test_text_without_train_documents_is_an_error(make, ahead, heldout_frac):
    stream, _ = make()
    some = [Document(0, None, "short", 0)] if heldout_frac == 0.2 else list(stream.blocks.documents(Place()))
    empty = replace(stream.blocks, documents=lambda _: some, window=replace(WINDOWS, heldout_frac=heldout_frac))
    with pytest.raises(SaelabError, match=r"no train tokens(.|\n)*windows.heldout_frac"):
        next(Stream(empty, batch_tokens=62, ahead=ahead))


def test_a_mask_that_keeps_nothing_is_an_error(make):
    stream, store = make()
    store.mask = Mask(first_position=True, special=tuple(range(1000)), norm_limits={})
    with pytest.raises(SaelabError, match="no train tokens"):
        next(stream)


def test_settings_that_cannot_work(make, store, lm, text_file):
    with pytest.raises(SaelabError, match="buffer_tokens: must be at least 1, found 0"):
        FromStream(buffer_tokens=0)
    with pytest.raises(SaelabError, match="sample_tokens: must be at least 1, found 0"):
        FromStream(sample_tokens=0)
    with pytest.raises(SaelabError, match=r"source.buffer_tokens: 31 is less than one context of 32 tokens"):
        make(buffer_tokens=31)
    with pytest.raises(SaelabError, match="holds no gradients of the loss"):
        make(wanted=replace(WANTED, loss_grad=True))
    with pytest.raises(
        SaelabError, match=r"source: there is no memory for a buffer of \d\d\d,(.|\n)*lower buffer_tokens"
    ):
        make(buffer_tokens=10**17)
    assert make(buffer_tokens=70)[0].blocks.contexts == 2
    assert make(buffer_tokens=170)[0].blocks.contexts == 4


# -- stopping --------------------------------------------------------------------------------------------


def wait_until(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come about in ten seconds")


def test_closing_while_the_next_block_is_computed_waits_for_one_forward_pass_at_most(make, lm, monkeypatch):
    stream, _ = make()
    expected = take(stream, 20)
    stream.load_state_dict(again(stream).state_dict())
    real, calls, go = lm.capture, [], threading.Event()

    def slow(tokens, hooks):
        calls.append(len(tokens))
        if len(calls) == 6:  # in the second block
            go.wait(10)
        return real(tokens, hooks)

    monkeypatch.setattr(lm, "capture", slow)
    next(stream)
    wait_until(lambda: len(calls) == 6)
    threading.Timer(0.05, go.set).start()
    stream.close()
    assert not threads()
    assert len(calls) == 6
    assert torch.equal(take(stream, 19), expected[62:])


def test_closing_while_every_buffer_is_full(make, lm, monkeypatch):
    stream, _ = make()
    real, calls = lm.capture, []
    monkeypatch.setattr(lm, "capture", lambda tokens, hooks: calls.append(1) or real(tokens, hooks))
    next(stream)
    wait_until(lambda: len(calls) == 8)
    time.sleep(0.05)
    assert len(calls) == 8  # two blocks, and no further
    assert len(threads()) == 1
    stream.close()
    assert not threads()


def test_a_stream_that_is_forgotten_stops_its_thread(make):
    stream, _ = make()
    forgotten = again(stream)
    next(forgotten)
    assert len(threads()) == 1
    del forgotten
    gc.collect()
    assert not threads()


def test_an_interrupted_wait_loses_no_row(make, lm, monkeypatch):
    stream, _ = make()
    expected = take(again(stream, ahead=False), 20)
    take(stream, 7)

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_Ahead, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take(stream, 3)
    assert not threads()
    assert stream.state_dict()["served_tokens"] == BLOCK  # where the next block is waited for
    assert torch.equal(take(stream, 5), expected[BLOCK : BLOCK + 5 * 62])


@pytest.mark.slow
def test_a_process_ends_without_closing_its_stream(tiny_model_dir, text_file, tmp_path):
    code = f"""
        from saelab.activations import CaptureSpec, capture
        from saelab.activations.loader import Wanted
        from saelab.activations.source import FromStream, Text
        from saelab.lm.corpus import DataSpec
        from saelab.lm.mask import MaskSpec
        from saelab.lm.model import ModelSpec, load
        from saelab.lm.windows import WindowSpec

        lm = load(ModelSpec({str(tiny_model_dir)!r}, dtype="float32", device="cpu"))
        text = Text(lambda: lm, DataSpec({str(text_file)!r}), WindowSpec(32, heldout_frac=0.2))
        source, spec = FromStream(4096, 200), CaptureSpec((({HOOK!r}),), 200, 100, dir={str(tmp_path / "s")!r})
        store = capture(lm, text.data, text.windows, MaskSpec(), source.capture_spec(spec))
        stream = source.batches(store, Wanted({HOOK!r}, None, False, 64, 1, 0), text, spec)
        print(tuple(next(stream).input.shape))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "(64, 32)\n"), done.stderr


# -- the setting -----------------------------------------------------------------------------------------


def test_a_stream_stores_a_sample_and_a_store_everything(store, lm, text_file, tmp_path):
    place = spec(tmp_path)
    assert FromStore().capture_spec(place) == place
    assert FromStream(sample_tokens=500).capture_spec(place) == replace(place, tokens=500)
    assert FromStream(sample_tokens=500).capture_spec(replace(place, tokens=90)).tokens == 90
    assert list(SOURCES) == ["store", "stream"]
    text = Text(lambda: lm, DataSpec(str(text_file)), WINDOWS)
    loader = FromStore().batches(store, replace(WANTED, target_hook=HEADS), text, place)
    same = Loader(store, HOOK, target_hook=HEADS, batch_tokens=62, mix_shards=2, seed=3)
    mine, others = next(loader), next(same)
    assert torch.equal(mine.input, others.input)
    assert torch.equal(mine.target, others.target)
    loader.close()
    assert loader.state_dict() == same.state_dict()


def test_the_source_is_a_key_of_a_run(config_text):
    from saelab.cli.schema import RunConfig
    from saelab.config import Choice, as_dict, parse_config

    assert parse_config(RunConfig, config_text()).source == Choice("store", {})
    streamed = parse_config(RunConfig, config_text(extra="source: {kind: stream, buffer_tokens: 4096}"))
    assert SOURCES[streamed.source.kind](**streamed.source.settings) == FromStream(buffer_tokens=4096)
    assert as_dict(streamed)["source"] == {"kind": "stream", "buffer_tokens": 4096, "sample_tokens": 100_000}
    with pytest.raises(SaelabError, match=r"source.buffer_tokens: must be at least 1"):
        parse_config(RunConfig, config_text(extra="source: {kind: stream, buffer_tokens: 0}"))
    with pytest.raises(SaelabError, match=r"source.kind(.|\n)*did you mean 'stream'"):
        parse_config(RunConfig, config_text(extra="source: {kind: streem}"))
