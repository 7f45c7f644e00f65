"""Batches of a store whose documents differ are as mixed as a shuffle of everything would make them."""

from __future__ import annotations

import json
import random
import statistics
import string
from pathlib import Path

import pytest

from saelab.activations import CaptureSpec, Loader, Store, capture
from saelab.bench.correlation import compare
from saelab.lm.corpus import DataSpec
from saelab.lm.mask import MaskSpec
from saelab.lm.windows import WindowSpec

HOOK = "blocks.1.hook_resid_post"
BATCH_TOKENS = 100


def different_documents(file: Path, documents: int = 120, characters: int = 300) -> Path:
    """Each of three letters of its own, so that its activations are like no other's."""
    rng = random.Random(0)
    letters = [rng.sample(string.ascii_letters + string.digits, 3) for _ in range(documents)]
    texts = ["".join(rng.choices(own, k=characters)) for own in letters]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


@pytest.fixture
def of_different_documents(lm, tmp_path) -> Store:
    text = different_documents(tmp_path / "text.jsonl")
    spec = CaptureSpec(
        (HOOK,), tokens=25_000, heldout_tokens=500, shuffle_contexts=64, shard_bytes=200_000, dir=str(tmp_path / "s")
    )
    return capture(lm, DataSpec(str(text)), WindowSpec(context_length=32, heldout_frac=0.1), MaskSpec(), spec)


@pytest.mark.parametrize("mix_shards", [2, 4, 16])
def test_batches_are_as_mixed_as_a_shuffle_of_everything(of_different_documents, mix_shards):
    """Over several seeds, since one may be lucky."""
    store = of_different_documents
    assert 8 < len(store.of("train")) <= 32
    of_seeds = []
    for seed in range(4):
        loader = Loader(store, HOOK, batch_tokens=BATCH_TOKENS, mix_shards=mix_shards, seed=seed)
        of_seeds.append(compare(store, HOOK, loader, BATCH_TOKENS, epochs=2))
    excesses = [orders.loader.excess(orders.shuffled) for orders in of_seeds]
    assert max(excesses) < 3
    assert abs(statistics.fmean(excesses)) < 1.5
    assert of_seeds[0].in_order.excess(of_seeds[0].shuffled) > 20


def test_mixing_more_makes_batches_less_alike(of_different_documents, monkeypatch):
    def excess(mix_shards: int) -> float:
        loader = Loader(of_different_documents, HOOK, batch_tokens=BATCH_TOKENS, mix_shards=mix_shards)
        orders = compare(of_different_documents, HOOK, loader, BATCH_TOKENS)
        return orders.loader.mean - orders.shuffled.mean

    monkeypatch.setattr("saelab.activations.loader._MOST_SLICES", 1)
    assert excess(1) > 2 * excess(4) > 0
