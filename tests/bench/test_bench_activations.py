"""`saelab bench activations`: what is found is what it says, on a model that takes no time."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

from saelab.bench import growth
from saelab.bench.activations import PARTS, Bar, Extent, Row, Work, run
from saelab.bench.bare import BareForward, Beside
from saelab.bench.correlation import Correlation, within_batch_correlation
from saelab.cli import app
from saelab.errors import SaelabError, SettingError
from saelab.lm.corpus import DataSpec
from saelab.lm.mask import MaskSpec
from saelab.lm.model import ModelSpec
from saelab.lm.windows import WindowSpec
from saelab.training import TrainSpec

HOOK = "blocks.1.hook_resid_post"
EXTENT = Extent(rounds=2, cache_tokens=500, memory_tokens=3000, steps=3)


@pytest.fixture
def work(tiny_model_dir, tiny_text_file, store) -> Work:
    from saelab.activations import CaptureSpec

    spec = CaptureSpec((HOOK,), tokens=2000, heldout_tokens=300, dtype="float32", shuffle_contexts=16)
    return Work(
        model=ModelSpec(str(tiny_model_dir), dtype="float32", device="cpu"),
        data=DataSpec(str(tiny_text_file)),
        windows=WindowSpec(context_length=32, heldout_frac=0.2),
        mask=MaskSpec(),
        capture=spec,
        hook=HOOK,
        target_hook=None,
        kind="topk",
        settings={"n_latents": 64, "k": 4},
        train=TrainSpec(tokens=64 * 100, batch_tokens=64),
    )


@pytest.mark.slow
def test_every_part_gives_finite_figures_and_leaves_nothing(work, lm, store, own_cache):
    seen: list[tuple[int, int]] = []
    rows = run(work, lm, store, EXTENT, report=lambda done, total, note: seen.append((done, total)))
    assert [row.part for row in rows] == ["caching", "memory", "loader", "loader", "loader", "shuffling", "lockstep"]
    assert {row.part for row in rows} == set(PARTS)
    for row in rows:
        document = json.loads(json.dumps(row.document(), allow_nan=False))
        if row.part != "memory" or sys.platform == "linux":
            assert document["why_not"] is None
            assert document["min"] <= document["value"] <= document["max"]
        assert row.bar is None or row.met in (True, False)
    by_unit = {row.unit: row for row in rows if row.part == "loader"}
    assert by_unit["GB/s"].beside["batch_bytes"] == 64 * 32 * 4
    assert seen[-1] == (8, 8)  # two rounds of three parts, and two that are measured once
    assert list(own_cache.iterdir()) == []


@pytest.mark.slow
def test_the_command_prints_one_document(config_text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(config_text())
    options = ("--part", "loader", "--part", "shuffling", "--rounds", "1", "--steps", "2", "--json")
    monkeypatch.setattr(sys, "argv", ["saelab", "bench", "activations", "tiny.yaml", *options])
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["part"] for row in document["rows"]] == ["loader"] * 3 + ["shuffling"]
    assert document["extent"]["rounds"] == 1
    assert {"cpu", "threads", "torch"} <= document["machine"].keys()


def test_what_cannot_be_measured_is_refused(work, lm, store):
    with pytest.raises(SaelabError, match=r"unknown part 'chaching'(.|\n)*did you mean 'caching'"):
        run(work, lm, store, EXTENT, ["chaching"])
    with pytest.raises(SettingError, match="steps: must be at least 1, found 0"):
        Extent(steps=0)


def test_a_row_knows_its_bar():
    row = Row("loader", "loading", (3.0, 1.0, 2.0), "GB/s", Bar(1.5, least=True))
    assert (row.value, row.met) == (2.0, True)
    assert Row("memory", "growth", (400.0,), "MB", Bar(300)).met is False
    assert Row("memory", "growth", (), "MB", Bar(300), why_not="no /proc").met is None


def test_the_bare_forward_stops_with_the_models_own_activations(work, lm):
    tokens = torch.arange(3, 67).view(2, 32)
    found = BareForward(work.model, lm, 1)(tokens)
    torch.testing.assert_close(found, lm.capture(tokens, [lm.hook(HOOK)])[HOOK], rtol=1e-4, atol=1e-5)
    assert BareForward(work.model, lm, None)(tokens) is None


def test_a_bare_pass_stands_beside_each_of_the_models_and_changes_nothing(lm):
    order = []

    class Bare:
        def __call__(self, tokens):
            order.append(("bare", tokens.sum().item()))

    class Model:
        device = lm.device

        def capture(self, tokens, hooks):
            order.append(("model", tokens.sum().item()))
            return {"found": tokens}

    both = Beside(Model(), Bare())  # type: ignore[arg-type]
    batches = [torch.full((2, 3), number) for number in range(3)]
    assert [both.capture(batch, [])["found"] is batch for batch in batches] == [True] * 3
    assert order == [("bare", 0), ("model", 0), ("model", 6), ("bare", 6), ("bare", 12), ("model", 12)]
    assert (both.tokens, both.device) == (18, lm.device)
    assert both.seconds > 0


def test_growth_compares_the_most_at_both_ends():
    samples = [(20_000 * i, 10 + i % 5) for i in range(1, 51)] + [(1_010_000, 40)]
    found = growth._growth(1_010_000, samples)
    assert (found.first_bytes, found.last_bytes, found.bytes) == (14, 40, 26)
    assert growth._growth(100, [(60, 5), (100, 7)]).bytes == 2  # one pass is more than half
    assert growth.Growth(100, why_not="no /proc").bytes is None


def test_correlation_is_the_mean_over_pairs():
    generator = torch.Generator().manual_seed(0)
    rows, mean = torch.randn(20, 8, generator=generator), torch.randn(8, generator=generator)
    units = torch.nn.functional.normalize(rows - mean, dim=1)
    pairs = (units @ units.T)[~torch.eye(20, dtype=torch.bool)]
    assert within_batch_correlation(rows, mean) == pytest.approx(float(pairs.mean()), abs=1e-6)
    assert within_batch_correlation(mean + torch.ones(5, 8), mean) == pytest.approx(1.0)


def test_one_document_is_alike_and_many_are_as_chance_has_it():
    generator = torch.Generator().manual_seed(1)
    topics = 3 * torch.randn(100, 64, generator=generator)
    documents = torch.randint(0, 100, (40, 50), generator=generator)
    noise = torch.randn(40, 50, 64, generator=generator)
    alone = Correlation(tuple(within_batch_correlation(topics[i] + noise[i], torch.zeros(64)) for i in range(40)))
    mixed = Correlation(
        tuple(within_batch_correlation(topics[documents[i]] + noise[i], topics.mean(0)) for i in range(40))
    )
    assert alone.mean == pytest.approx(0.9, abs=0.02)
    assert abs(mixed.mean) < 3 * mixed.standard_error
    assert alone.excess(mixed) > 100
    assert mixed.excess(mixed) == 0
    assert math.isfinite(mixed.standard_error)
