"""saelab and its peers, alternately, in one go: `make bench-peers`.

    python -m tests.benchmarks [--out runs/bench-peers] [--parts speed memory ...] [--threads 2] [--fresh]

Writes results.json, table.md and plot.png, and prints the table. A part that is not asked for stays as results.json has
it. Training runs of the quality part are kept in quality.jsonl and taken from there until code or settings change.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from saelab.activations import Store

from . import data, machine, memory, plot, quality, scaling, screening, speed, tables
from .cases import CASES, WIDE
from .progress import Progress


def run_speed(store: Store, progress: Progress) -> dict[str, Any]:
    batches = list(islice(data.training(store, WIDE.batch_tokens, seed=0), speed.ROUNDS))
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for case in CASES:
        timings = speed.race(case, batches, progress)
        mine = next(timing for timing in timings if timing.entry == "saelab")
        rows += [timing.document() | {"over_saelab": speed.ratio(timing, mine)} for timing in timings]
        bars += [asdict(verdict) for verdict in speed.judge(case, timings)]
    return {
        "rounds": speed.ROUNDS,
        "few_rounds": speed.FEW_ROUNDS,
        "many_rounds": speed.MANY_ROUNDS,
        "rows": rows,
        "bars": bars,
    }


def run_memory(store: Store, progress: Progress) -> dict[str, Any]:
    found = memory.measure_all(torch.get_num_threads(), progress)
    return {"rows": [one.document() for one in found], "bars": [asdict(verdict) for verdict in memory.judge(found)]}


def run_scaling(store: Store, progress: Progress) -> dict[str, Any]:
    batches = list(islice(data.training(store, WIDE.batch_tokens, seed=0), speed.ROUNDS))
    found = scaling.sweep(batches, progress)
    return {"rows": [one.document() | {"n_latents": width} for width, timings in found.items() for one in timings]}


def run_screening(store: Store, progress: Progress) -> dict[str, Any]:
    found = screening.measure_all(store, progress)
    return {"rows": [one.document() for one in found], "bars": [asdict(verdict) for verdict in screening.judge(found)]}


def run_quality(store: Store, progress: Progress, *, journal: Path) -> dict[str, Any]:
    found = quality.compare(store, journal, progress)
    return {
        "seeds": quality.SEEDS,
        "within": quality.WITHIN,
        "rows": [asdict(outcome) for outcome in found],
        "bars": quality.judge(found),
    }


SECONDS: dict[str, Callable[[], float]] = {
    "speed": lambda: sum(speed.expected(case) for case in CASES),
    "memory": memory.expected_seconds,
    "scaling": scaling.expected_seconds,
    "screening": screening.expected_seconds,
    "quality": quality.expected_seconds,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-peers"), help="where results go")
    parser.add_argument(
        "--parts", nargs="*", choices=list(SECONDS), default=list(SECONDS), help="what to run; none: draw"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="train every SAE of the quality part again")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")  # the peers' dependencies have many
    chosen.out.mkdir(parents=True, exist_ok=True)
    results, journal = chosen.out / "results.json", chosen.out / "quality.jsonl"
    if chosen.fresh:
        journal.unlink(missing_ok=True)
    document = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    runs: dict[str, Callable[[Store, Progress], dict[str, Any]]] = {
        "speed": run_speed,
        "memory": run_memory,
        "scaling": run_scaling,
        "screening": run_screening,
        "quality": partial(run_quality, journal=journal),
    }
    progress = Progress(sum(SECONDS[part]() for part in chosen.parts))
    for part in chosen.parts:
        found = runs[part](data.find_store(), progress)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        document[part] = {"at": at, "machine": machine.describe(), **found}
        results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = tables.render(document)
    (chosen.out / "table.md").write_text(text, encoding="utf-8")
    plot.draw(document, chosen.out / "plot.png")
    print(text)  # noqa: T201
    progress.say(f"written: {chosen.out}/results.json, table.md, plot.png")


if __name__ == "__main__":
    main()
