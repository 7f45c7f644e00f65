"""Tables of what was timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from saelab.bench import activations, kernels, train
    from saelab.bench.workload import Workload

_MIB = 2**20
_FLOORS = {
    "encoder_gemm_float32": "fp32 product",
    "encoder_gemm_bfloat16": "bf16 product",
    "encoder_gemm_int8": "int8 product",
    "top_k": "top-k",
    "optimiser_pass": "Adam",
}


def steps_table(rows: Sequence[train.Row], machine: dict[str, Any], work: Workload) -> Table:
    """A row for each case, the fastest first, refused ones last; ratios are a step's time over a floor's."""
    timed = sorted((row for row in rows if row.times), key=lambda row: row.times.median if row.times else 0.0)
    floors = timed[0].floors if timed else {}
    shown = Table(title="Training steps", caption=_caption(machine, work))
    shown.add_column("case", no_wrap=True)
    for heading in ("ms", "min .. max", "tokens/s", "peak MiB", "state MiB", "L0"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for name in floors:
        shown.add_column(f"/ {_FLOORS.get(name, name)}", justify="right")
    shown.add_column("selection, kernels")
    for row in timed:
        shown.add_row(*_step_cells(row), f"{row.precision}, {row.kernels}")
    for row in rows:
        if row.refused:
            shown.add_row(row.case, *([""] * (6 + len(floors))), f"[bold red]refused:[/] {escape(row.refused)}")
    if timed:
        shown.add_section()
        own = (f"{floor.median:.2f}" for floor in floors.values())
        shown.add_row("floors, ms", *([""] * 6), *own, f"copy {_gb(timed[0].copy_bytes_per_second)} GB/s")
    return shown


def activations_table(rows: Sequence[activations.Row], machine: dict[str, Any], name: str) -> Table:
    """A row for each figure, what it is made from beside it."""
    shown = Table(title="Activations", caption=f"{name}; {_machine(machine)}")
    shown.add_column("part", no_wrap=True)
    shown.add_column("what")
    for heading in ("found", "min .. max", "bar"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("")
    shown.add_column("made from")
    for row in rows:
        beside = ", ".join(f"{key} {value:,.4g}" for key, value in row.beside.items())
        shown.add_row(row.part, row.what, *_figure_cells(row), row.why_not or beside)
    return shown


def _figure_cells(row: activations.Row) -> list[str]:
    found = "?" if row.value is None else f"{row.value:.3g} {row.unit}".rstrip()
    spread = f"{min(row.values):.3g} .. {max(row.values):.3g}" if len(row.values) > 1 else ""
    bar = "" if row.bar is None else f"{'at least' if row.bar.least else 'at most'} {row.bar.limit:g}"
    return [found, spread, bar, {None: "", True: "met", False: "[bold red]not met[/]"}[row.met]]


def _step_cells(row: train.Row) -> list[str]:
    assert row.times is not None
    assert row.l0 is not None
    return [
        row.case,
        f"{row.times.median:.1f}",
        f"{min(row.times.ms):.1f} .. {max(row.times.ms):.1f}",
        f"{row.tokens_per_second:,.0f}",
        _mib(row.memory.peak_bytes),
        _mib(row.state_bytes),
        f"{row.l0:.1f}",
        *(f"{ratio:.2f}" for ratio in row.ratios.values()),
    ]


def kernels_table(rows: Sequence[kernels.Row], machine: dict[str, Any], work: Workload, dtype: str) -> Table:
    """Primitive by primitive, the fastest implementation first."""
    shown = Table(title=f"Sparse primitives, {dtype}", caption=_caption(machine, work))
    shown.add_column("primitive", no_wrap=True)
    shown.add_column("implementation", no_wrap=True)
    for heading in ("ms", "min .. max", "moved MiB", "GB/s", "/ copy", "largest error"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("")
    for what in dict.fromkeys(row.primitive for row in rows):
        shown.add_section()
        own = [row for row in rows if row.primitive == what]
        for row in sorted(own, key=lambda row: row.times.median if row.times else float("inf")):
            shown.add_row(what, row.case.partition("/")[2], *_kernel_cells(row), _remark(row))
    return shown


def _kernel_cells(row: kernels.Row) -> list[str]:
    error = "" if row.error is None else f"{row.error:.1e}"
    if row.times is None:
        return ["", "", _mib(row.moved), "", "", error]
    return [
        f"{row.times.median:.3f}",
        f"{min(row.times.ms):.3f} .. {max(row.times.ms):.3f}",
        _mib(row.moved),
        _gb(row.bandwidth),
        *(f"{ratio:.2f}" for ratio in row.ratios.values()),
        error,
    ]


def _remark(row: kernels.Row) -> str:
    if row.refused:
        return f"[bold red]refused:[/] {escape(row.refused)}"
    return "dispatched" if row.chosen else ""


def _caption(machine: dict[str, Any], work: Workload) -> str:
    sizes = f"d {work.d_model}, latents {work.n_latents:,}, k {work.k}, batch {work.batch_tokens:,}"
    return f"{sizes}; {_machine(machine)}"


def _machine(machine: dict[str, Any]) -> str:
    gpu = f", {', '.join(machine['cuda'])}" if machine["device"].startswith("cuda") else ""
    return f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, {machine['device']}{gpu}"


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / _MIB:,.0f}"


def _gb(rate: float | None) -> str:
    return "?" if rate is None else f"{rate / 1e9:.1f}"
