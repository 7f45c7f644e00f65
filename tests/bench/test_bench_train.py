"""`saelab bench train`: checked before it is timed, sparse from the start, floors beside every step."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

from saelab import machine
from saelab.bench import agreement, floors, memory, timing, train
from saelab.bench.progress import Progress
from saelab.bench.timing import Copy, Times, alternate
from saelab.bench.workload import Case, Workload, active_latents
from saelab.cli import app
from saelab.errors import SaelabError, SettingError
from saelab.kernels import Support, dispatch, reference
from saelab.sae import VARIANTS
from saelab.sae.coders import Precision
from saelab.sae.variants import topk
from saelab.training import TrainSpec

CPU = torch.device("cpu")
SMALL = Workload(d_model=16, n_latents=128, k=4, batch_tokens=64)
SPEC = TrainSpec(tokens=6400, batch_tokens=64)


def small(kind: str, precision: Precision = "exact", work: Workload = SMALL) -> Case:
    return Case(kind, work, precision, CPU)


def in_use():
    """The kernels that `SMALL` is dispatched to."""
    module = dispatch.choose(torch.zeros(1), Support.from_rows(torch.zeros(1, 1, dtype=torch.int64), 128))
    assert module is not reference
    return module


def timed(kinds, work: Workload = SMALL, **options) -> list[train.Row]:
    return train.run(kinds, work, device=CPU, rounds=2, with_memory=False, **options)


@pytest.mark.parametrize("precision", ["exact", "screened"])
@pytest.mark.parametrize("kind", list(VARIANTS))
def test_every_variants_steps_are_the_references(kind, precision):
    found = agreement.compare(small(kind, precision))
    assert found.refused is None
    assert found.recall >= agreement.LEAST_RECALL
    assert found.gradients < 1e-5
    json.dumps(found.document(), allow_nan=False)


def scaled(kernel):
    return lambda *arguments: 1.01 * kernel(*arguments)


def without_the_last_row(kernel):
    def wrong(*arguments):
        out = kernel(*arguments).clone()
        out[-1] = 0
        return out

    return wrong


def not_a_number(kernel):
    return lambda *arguments: kernel(*arguments) * math.nan


@pytest.mark.parametrize("wrongly", [scaled, without_the_last_row, not_a_number])
@pytest.mark.parametrize("name", ["gather", "sampled_dot", "transposed_scatter", "latent_sum"])
def test_a_wrong_kernel_is_refused(monkeypatch, name, wrongly):
    monkeypatch.setattr(in_use(), name, wrongly(getattr(in_use(), name)))
    found = agreement.compare(small("topk"))
    assert found.refused is not None
    assert found.refused.startswith("differs from the reference within 3 steps: ")
    json.dumps(found.document(), allow_nan=False)


@pytest.mark.parametrize("precision", ["exact", "screened"])
def test_a_selection_that_misses_entries_is_refused(monkeypatch, precision):
    top = dispatch.selection(torch.zeros(1)).TopRows
    right = top.finish
    monkeypatch.setattr(top, "finish", lambda self: right(self).roll(1, 0))  # another token's latents
    found = agreement.compare(small("topk", precision))
    assert found.recall < 0.9
    assert "active entries by" in (found.refused or "")


def test_a_refused_case_has_no_time_and_the_rest_has(monkeypatch):
    right = in_use().gather

    def breaks_for_three_entries(values, support, weight):
        return right(values, support, weight) * (1.1 if support.width == 3 else 1.0)

    @VARIANTS.register("three")
    def three(d_model: int, *, n_latents: int = 8):
        return topk(d_model, n_latents=n_latents, k=3)

    monkeypatch.setattr(in_use(), "gather", breaks_for_three_entries)
    try:
        wrong, sound = timed(["three", "topk"])
    finally:
        VARIANTS.remove("three")
    assert "differs from the reference" in (wrong.refused or "")
    assert (wrong.times, wrong.tokens_per_second, wrong.ratios) == (None, None, {})
    assert wrong.document()["ms_median"] is None
    assert sound.refused is None
    assert sound.times is not None


def test_a_case_that_cannot_be_trained_or_fails_says_why(monkeypatch):
    (row,) = timed(["feature_choice"], Workload(d_model=8, n_latents=128, k=1, batch_tokens=64))
    assert "impossible quotas" in (row.refused or "")

    def fails(values, support, weight):
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(in_use(), "gather", fails)
    (row,) = timed(["topk"])
    assert row.refused == "it fails: no such instruction"


def test_rows_have_times_floors_and_ratios_that_fit():
    told = []
    rows = timed(["topk", "codebook", "topk"], report=lambda *call: told.append(call))
    assert [row.case for row in rows] == ["topk", "codebook"]
    for row in rows:
        found = row.document()
        assert found["ms_min"] <= found["ms_median"] <= found["ms_max"]
        assert found["tokens_per_second"] == pytest.approx(1e3 * 64 / found["ms_median"])
        names = {"encoder_gemm_float32", "encoder_gemm_bfloat16", "encoder_gemm_int8", "top_k", "optimiser_pass"}
        assert set(found["floors"]) == {f"{name}_ms" for name in names} | {"copy_bytes_per_second"}
        assert set(found["ratios"]) == names
        for name, ratio in found["ratios"].items():
            assert ratio == pytest.approx(found["ms_median"] / found["floors"][f"{name}_ms"])
        assert found["l0"] == 4
        assert dispatch.implementation(found["kernels"]) is in_use()
    assert rows[0].state_bytes == 4 * 4 * (2 * 128 * 16 + 128 + 16)
    assert rows[0].floors["top_k"] is rows[1].floors["top_k"]
    assert told[0] == (0, 4, "topk: against the reference")
    assert told[-1][:2] == (4, 4)


def test_threshold_variants_begin_at_the_l0_asked_for():
    work = Workload(d_model=32, n_latents=512, k=9, batch_tokens=512, l0=6)
    spec = TrainSpec(tokens=51_200, batch_tokens=512)
    for kind in ("relu", "jumprelu", "gated"):
        case = small(kind, work=work)
        sae = case.member(spec).sae
        assert active_latents(sae, case.batch(sae, 0)) == pytest.approx(6, rel=0.15)
    sae = small("topk", work=work).member(SPEC).sae
    assert not sae.state_dict()["coder.b_enc"].any()
    assert small("relu", work=Workload(k=9)).settings["target_l0"] == 9


def test_settings_follow_from_the_signature():
    assert small("topk").settings == {"n_latents": 128, "k": 4}
    assert small("jumprelu").settings == {"n_latents": 128, "target_l0": 4}
    assert small("group_bias").settings == {"n_latents": 128, "l0": 4}
    batch = small("gradient_topk").batch(small("gradient_topk").member(SPEC).sae, 0)
    assert batch.side["loss_grad"].shape == (64, 16)
    assert not batch.side["loss_grad"].equal(batch.input)


def test_sizes_that_cannot_be_are_refused():
    for wrong, key in (({"k": 0}, "k"), ({"n_latents": 8, "k": 9}, "k"), ({"batch_tokens": 1}, "batch_tokens")):
        with pytest.raises(SettingError) as error:
            Workload(**wrong)
        assert error.value.key == key
    with pytest.raises(SettingError, match="lies above 0"):
        Workload(l0=0)


def test_an_unknown_variant_is_refused_at_once():
    with pytest.raises(SaelabError, match=r"unknown SAE variant 'topkk'\n  fix: did you mean 'topk'"):
        timed(["relu", "topkk"])


def test_cases_take_turns_after_a_warm_up():
    calls: list[str] = []

    def case(name: str):
        def call() -> None:
            calls.append(name)
            sum(range(300_000))  # long enough to be measured one call at a time

        return call

    found = alternate({"a": case("a"), "b": case("b")}, 2, CPU, Progress(lambda *_: None, 2))
    assert calls == ["a", "a", "b", "b", "a", "b", "a", "b"]
    assert len(found["a"].ms) == 2


def test_a_copy_moves_what_it_reads_and_writes():
    copy = Copy.on(CPU, 4000)
    copy.source.fill_(3.0)
    copy()
    assert copy.into.eq(3.0).all()
    assert copy.bandwidth(Times((1.0, 2.0, 8.0))) == pytest.approx(8000 / 2e-3)


def test_threads_are_set_and_given_back():
    before = torch.get_num_threads()
    with timing.threads(before + 1):
        assert train.describe_machine(CPU)["threads"] == before + 1
    with timing.threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_the_integer_floor_is_the_product():
    work = Workload(d_model=8, n_latents=32, k=2, batch_tokens=20)
    x, weight = (torch.randint(-100, 101, shape) / 32 for shape in ((20, 8), (32, 8)))  # they fit eight bits
    out = torch.empty(20, 32, dtype=torch.int32)
    floors.integer_product(x, weight, out)()
    assert torch.equal(out / 32**2, x @ weight.T)
    for call in floors.products(work, CPU).values():
        call()


@pytest.mark.slow
def test_peak_memory_is_that_of_the_steps():
    case = small("topk", work=Workload(d_model=64, n_latents=8192, k=4, batch_tokens=128))
    state = memory.state_bytes(case.member(SPEC))
    found = memory.measure(case)
    assert found.why_not is None
    assert found.peak_bytes is not None
    assert 0.8 * state < found.peak_bytes < 5 * state
    assert memory.measure(small("a third party's")).peak_bytes is None


def test_memory_is_read_from_proc_or_unknown(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    20 kB\nVmRSS:\t    12 kB\n")
    assert machine.memory_since(tmp_path) == (12 * 1024, 20 * 1024)
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert machine.memory_since(tmp_path) is None
    assert machine.memory_since(tmp_path / "absent") is None


@pytest.fixture
def command(monkeypatch, capsys):
    sizes = [
        "--d-model",
        "16",
        "--n-latents",
        "128",
        "--k",
        "4",
        "--batch-tokens",
        "64",
        "--rounds",
        "2",
        "--no-memory",
    ]

    def run(*more: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["saelab", "bench", "train", *sizes, "--device", "cpu", *more])
        with pytest.raises(SystemExit) as left:
            app.main()
        assert left.value.code == code
        captured = capsys.readouterr()
        return captured.err if code == 2 else captured.out

    return run


def test_the_command_prints_a_table_or_a_document(command):
    shown = command("--case", "topk", "--case", "codebook")
    for text in ("topk", "codebook", "tokens/s", "product", "floors, ms", "d 16, latents 128, k 4, batch 64"):
        assert text in shown
    document = json.loads(command("--threads", "1", "--json"))
    assert [row["case"] for row in document["rows"]] == ["topk"]
    assert {"case", "ms_median", "tokens_per_second", "peak_memory_bytes", "floors"} <= set(document["rows"][0])
    assert {"cpu", "cores", "threads", "torch", "bf16_tiles", "avx512_bf16", "vnni", "cuda"} <= set(document["machine"])
    assert document["machine"]["threads"] == 1
    assert document["rows"][0]["peak_memory_why_not"] == "not asked for"


def test_the_command_prints_what_is_refused_and_fails(command, monkeypatch):
    monkeypatch.setattr(in_use(), "gather", scaled(in_use().gather))
    (row,) = json.loads(command("--json", code=1))["rows"]
    assert row["ms_median"] is None
    assert "differs from the reference" in row["refused"]
    assert "refused: differs from the reference" in " ".join(command(code=1).split())
    assert "did you mean 'topk'" in command("--case", "topkk", code=2)
    assert "k = 500 is more than n_latents = 128" in command("--k", "500", code=2)
