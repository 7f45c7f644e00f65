"""`saelab bench`: what the variants find where the truth is known, how fast they train, and what feeds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from saelab.cli.console import console, progress

if TYPE_CHECKING:
    from saelab.bench.planted import Row

app = typer.Typer(help="Measure saelab itself.", no_args_is_help=True)

_DModel = Annotated[int, typer.Option(help="Width of the activations.")]
_NLatents = Annotated[int, typer.Option(help="Width of the dictionary.")]
_BatchTokens = Annotated[int, typer.Option(help="Tokens of a batch.")]
_Rounds = Annotated[int, typer.Option(min=1, help="Measurements of each case and of each floor, in turn.")]
_Threads = Annotated[int | None, typer.Option(min=1, help="Threads inside operators; torch's own choice if none.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]

_WRONG = 1
"""Exit code where something that was to be timed is not right."""

_COLUMNS = {
    "l0": ("L0", ".2f"),
    "fvu": ("FVU", ".3f"),
    "mcc": ("MCC", ".3f"),
    "untrained_mcc": ("untrained", ".3f"),
    "recovered": ("recovered", ".3f"),
    "support_f1": ("support F1", ".3f"),
    "dead": ("dead", ".3f"),
}


@app.command()
def planted(
    only: Annotated[list[str] | None, typer.Option(help="A variant; repeatable. All of them if none is named.")] = None,
    world: Annotated[list[str] | None, typer.Option(help="A world; repeatable. All of them if none is named.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds: of features, weights and tokens.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, with the values of every seed.")] = False,
) -> None:
    """Train every variant on worlds with known features; say what each one finds of them."""
    from saelab.bench.planted import run

    with progress("planted") as report:
        rows = list(run(kinds=only or (), worlds=world or (), seeds=seeds, steps=steps, report=report))
    if as_json:
        document = {"seeds": seeds, "steps": steps, "rows": [row.document() for row in rows]}
        typer.echo(json.dumps(document, indent=2))
        return
    console().print(table(rows, f"medians of {seeds} seeds; {steps:,} steps; inference form"))


@app.command()
def train(
    case: Annotated[list[str] | None, typer.Option(help="A variant; repeatable. TopK if none is named.")] = None,
    d_model: _DModel = 576,
    n_latents: _NLatents = 16_384,
    k: Annotated[int, typer.Option(help="Latents per token, where a variant has a k.")] = 32,
    batch_tokens: _BatchTokens = 2048,
    l0: Annotated[
        float | None, typer.Option(help="Active latents per token at which variants without a k begin; k if not given.")
    ] = None,
    precision: Annotated[Literal["auto", "exact", "screened"], typer.Option(help="Of selection.")] = "auto",
    threads: _Threads = None,
    device: _Device = "auto",
    rounds: _Rounds = 9,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, each case in a process of its own.")] = True,
    as_json: _AsJson = False,
) -> None:
    """Time whole training steps beside their floors. A step that is not the reference's gets no time: exit code 1."""
    from saelab.bench.timing import threads as with_threads
    from saelab.bench.train import describe_machine, run
    from saelab.bench.workload import Workload
    from saelab.cli.speed import steps_table
    from saelab.lm.model import resolve_device

    work = Workload(d_model, n_latents, k, batch_tokens, l0)
    where = resolve_device(device)
    with with_threads(threads), progress("train") as report:
        rows = run(
            case or (),
            work,
            wanted=precision,
            device=where,
            rounds=rounds,
            with_memory=memory,
            report=report,
        )
        machine = describe_machine(where)
    if as_json:
        document = {"rows": [row.document() for row in rows], "machine": machine, "work": vars(work), "rounds": rounds}
        typer.echo(json.dumps(document, indent=2))
    else:
        console().print(steps_table(rows, machine, work))
    if any(row.refused for row in rows):
        raise typer.Exit(_WRONG)


@app.command()
def kernels(
    d_model: _DModel = 576,
    n_latents: _NLatents = 16_384,
    k: Annotated[int, typer.Option(help="Entries per token.")] = 32,
    batch_tokens: _BatchTokens = 2048,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float64"], typer.Option(help="Of values and weights.")
    ] = "float32",
    threads: _Threads = None,
    device: _Device = "auto",
    rounds: _Rounds = 9,
    as_json: _AsJson = False,
) -> None:
    """Time each sparse primitive in each implementation. What is not the reference's gets no time: exit code 1."""
    from saelab.bench.kernels import DTYPES, run
    from saelab.bench.timing import threads as with_threads
    from saelab.bench.train import describe_machine
    from saelab.bench.workload import Workload
    from saelab.cli.speed import kernels_table
    from saelab.lm.model import resolve_device

    work = Workload(d_model, n_latents, k, batch_tokens)
    where = resolve_device(device)
    with with_threads(threads), progress("kernels") as report:
        rows = run(work, dtype=DTYPES[dtype], device=where, rounds=rounds, report=report)
        machine = describe_machine(where)
    if as_json:
        found = [row.document(work) for row in rows]
        document = {"rows": found, "machine": machine, "work": vars(work), "dtype": dtype, "rounds": rounds}
        typer.echo(json.dumps(document, indent=2))
    else:
        console().print(kernels_table(rows, machine, work, dtype))
    if any(row.refused for row in rows):
        raise typer.Exit(_WRONG)


@app.command()
def activations(
    config: Annotated[Path, typer.Argument(help="A YAML file, or the name of a shipped one.")] = Path("demo"),
    override: Annotated[list[str] | None, typer.Option("-o", "--override", help="section.key=value")] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="caching, memory, loader, shuffling, lockstep; repeatable. All of them if none is named."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of everything that is compared.")] = 3,
    cache_tokens: Annotated[int, typer.Option(min=1, help="Tokens cached in a round.")] = 100_000,
    memory_tokens: Annotated[int, typer.Option(min=1, help="Tokens cached while memory is watched.")] = 300_000,
    steps: Annotated[int, typer.Option(min=1, help="Training steps in a round.")] = 48,
    threads: _Threads = None,
    as_json: _AsJson = False,
) -> None:
    """Measure caching, loading, shuffling and lock-step training, each beside its bar. Caches first what is missing."""
    from dataclasses import asdict

    from saelab.bench.activations import Extent, Work, run
    from saelab.bench.timing import threads as with_threads
    from saelab.bench.train import describe_machine
    from saelab.cli.console import Reporter
    from saelab.cli.schema import RunConfig
    from saelab.cli.shipped import find
    from saelab.cli.speed import activations_table
    from saelab.cli.stages import Loaded, Run
    from saelab.config import load_config

    wanted = load_config(RunConfig, find(config), override or [])
    extent = Extent(rounds, cache_tokens, memory_tokens, steps)
    work = Work(
        wanted.model,
        wanted.data,
        wanted.windows,
        wanted.mask,
        wanted.activations,
        wanted.sae_hook,
        wanted.target_hook,
        wanted.sae.kind,
        wanted.sae.settings,
        wanted.train,
    )
    with with_threads(threads):
        reporter = Reporter(console(stderr=True))
        loaded = Loaded(wanted.model, reporter)
        store = Run(wanted, reporter, loaded, Path(wanted.runs_dir)).cache()
        with progress("activations") as report:
            rows = run(work, loaded.model, store, extent, part or (), report=report)
        machine = describe_machine(loaded.model.device)
    if as_json:
        document = {"rows": [row.document() for row in rows], "machine": machine, "extent": asdict(extent)}
        typer.echo(json.dumps(document | {"config": wanted.name}, indent=2))
    else:
        console().print(activations_table(rows, machine, wanted.name))


def table(rows: list[Row], caption: str) -> Table:
    """Rows grouped by world."""
    shown = Table(title="Planted worlds", caption=caption)
    shown.add_column("world", no_wrap=True)
    shown.add_column("dictionary", no_wrap=True)
    for heading, _ in _COLUMNS.values():
        shown.add_column(heading, justify="right")
    shown.add_column("besides")
    previous = None
    for row in rows:
        if row.world != previous:
            shown.add_section()
        cells = [format(row.median(m), form) if m in row.metrics else "" for m, (_, form) in _COLUMNS.items()]
        shown.add_row(row.world if row.world != previous else "", row.name, *cells, row.refused or _besides(row))
        previous = row.world
    return shown


def _besides(row: Row) -> str:
    """What only this world measures."""
    own = [metric for metric in row.metrics if metric not in _COLUMNS]
    return ", ".join(f"{metric} {row.median(metric):.4f}" for metric in own)
