"""`saelab bench kernels`: checked against the reference, then timed; bytes by the formulas it states."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from saelab.bench import kernels
from saelab.bench.workload import Workload
from saelab.cli import app
from saelab.kernels import builtin, dispatch, reference
from saelab.kernels.jit import primitives

SMALL = Workload(d_model=16, n_latents=256, k=4, batch_tokens=32)
CPU = torch.device("cpu")


def timed(dtype=torch.float32, **options) -> dict[str, kernels.Row]:
    rows = kernels.run(SMALL, dtype=dtype, device=CPU, rounds=2, **options)
    assert len({row.case for row in rows}) == len(rows)
    return {row.case: row for row in rows}


@pytest.mark.parametrize("dtype", kernels.DTYPES.values())
def test_every_implementation_that_can_is_checked_and_timed(dtype):
    rows = timed(dtype)
    fit = {name for name in dispatch.IMPLEMENTATIONS if dispatch.unfit(name, torch.zeros(1, dtype=dtype)) is None}
    assert {case.partition("/")[2] for case in rows if case.startswith("gather/")} == fit
    assert {row.primitive for row in rows.values()} == set(kernels.PRIMITIVES)
    for row in rows.values():
        assert row.refused is None
        assert row.times is not None
        found = row.document(SMALL)
        assert found["bytes_per_second"] == pytest.approx(1e3 * row.moved / row.times.median)
        over_copy = found["bytes_per_second"] / found["floors"]["copy_bytes_per_second"]
        assert found["ratios"] == {"bandwidth_over_copy": pytest.approx(over_copy)}
    assert sum(row.chosen for row in rows.values()) == len(kernels.PRIMITIVES)


def test_bytes_moved():
    moved = {
        what: p.bytes_moved(kernels.Operands.draw(SMALL, torch.float32, CPU)) for what, p in kernels.PRIMITIVES.items()
    }
    entries, tokens, latents, row = 4 * 32, 32, 256, 16 * 4
    assert moved == {
        "gather": entries * (row + 8) + tokens * row,
        "sampled_dot": entries * (row + 8) + tokens * row,
        "transposed_scatter": entries * (row + 8) + latents * row,
        "latent_sum": entries * 8 + latents * 4,
        "top_k": tokens * latents * 4 + entries * 12,
    }


def test_a_wrong_kernel_is_refused(monkeypatch):
    right = reference.gather

    def one_row_short(values, support, weight):
        out = right(values, support, weight)
        out[-1] = 0
        return out

    monkeypatch.setattr(primitives, "gather", one_row_short)
    rows = timed()
    assert "differs from the reference by" in (rows["gather/cpu"].refused or "")
    assert rows["gather/cpu"].times is None
    assert rows["gather/cpu"].document(SMALL)["ms_median"] is None
    assert [row.case for row in rows.values() if row.refused] == ["gather/cpu"]


def test_a_kernel_that_fails_is_refused(monkeypatch):
    def fails(*arguments):
        raise NotImplementedError("not for these")

    monkeypatch.setattr(primitives, "sampled_dot", fails)
    assert timed()["sampled_dot/cpu"].refused == "it fails: not for these"


def test_nan_and_wrong_shapes_are_refused(monkeypatch):
    monkeypatch.setattr(primitives, "gather", lambda values, support, weight: weight.new_full((32, 16), float("nan")))
    monkeypatch.setattr(primitives, "latent_sum", lambda values, support: values.new_zeros(3))
    rows = timed()
    for case in ("gather/cpu", "latent_sum/cpu"):
        assert rows[case].refused
        json.dumps(rows[case].document(SMALL), allow_nan=False)


@pytest.mark.parametrize("wrong", ["a value too small", "a column twice", "columns of others"])
def test_a_wrong_selection_is_refused(monkeypatch, wrong):
    def selects(scores, k):
        values, columns = reference.top_k(scores, k + 1)
        if wrong == "a value too small":
            return values[:, 1:], columns[:, 1:]
        if wrong == "a column twice":
            return values[:, [0, 1, 2, 2]], columns[:, [0, 1, 2, 2]]
        return values[:, :k], columns[:, 1:]

    monkeypatch.setattr(builtin, "top_k", selects)
    assert timed()["top_k/builtin"].refused


def test_an_implementation_that_is_added_takes_part(monkeypatch):
    monkeypatch.setitem(dispatch.IMPLEMENTATIONS, "mine", "saelab.kernels.reference")
    assert "gather/mine" in timed()


def test_the_command_prints_a_table_or_a_document(monkeypatch, capsys):
    sizes = ["--d-model", "16", "--n-latents", "256", "--k", "4", "--batch-tokens", "32", "--rounds", "2"]

    def run(*more: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["saelab", "bench", "kernels", *sizes, "--device", "cpu", *more])
        with pytest.raises(SystemExit) as left:
            app.main()
        assert left.value.code == code
        return capsys.readouterr().out

    shown = run()
    for text in ("Sparse primitives, float32", "transposed_scatter", "dispatched", "GB/s"):
        assert text in shown
    document = json.loads(run("--dtype", "float64", "--json"))
    assert document["dtype"] == "float64"
    assert {"case", "ms_median", "tokens_per_second", "peak_memory_bytes", "floors"} <= set(document["rows"][0])
    monkeypatch.setattr(primitives, "gather", lambda values, support, weight: weight[:32] * 0)
    assert "refused" in run(code=1)
