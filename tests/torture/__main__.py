"""Kill saelab at random moments, start it again, and compare what it ends with: `make torture`.

    python -m tests.torture [--kills 60] [--minutes 20] [--seed 0] [--json] [--out runs/torture]

Exits with 1 where anything differs from an undisturbed run, or where time was up before all kills were done. What went
wrong is kept in `--out`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from . import process
from .phases import PHASES, Phase, World
from .trial import Outcome, Plan, Torture


def torture(phases: Sequence[Phase], directory: Path, plan: Plan, say: Callable[[str], None]) -> list[Outcome]:
    """Every phase with its share of the plan's kills, and of the time until its end."""
    process.start_server()
    world = World.make(directory / "world")
    outcomes = []
    for number, phase in enumerate(phases):
        left = len(phases) - number
        kills = (plan.kills - sum(outcome.kills for outcome in outcomes)) // left
        until = time.monotonic() + (plan.until - time.monotonic()) / left
        place = directory / phase.name.replace(" ", "-")
        outcomes.append(Torture(phase, world, place, replace(plan, kills=kills, until=until), say).run())
    return outcomes


def _say(text: str) -> None:
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stderr.flush()


def table(outcomes: Sequence[Outcome]) -> str:
    """As Markdown."""
    head = ("phase", "undisturbed", "stopped", "trials", "starts", "where", "result")
    rows = [
        (
            outcome.phase,
            f"{outcome.seconds:.1f} s",
            _counts(outcome.signals),
            str(outcome.trials),
            str(outcome.starts),
            _counts(outcome.places),
            "; ".join(outcome.wrong) or "same",
        )
        for outcome in outcomes
    ]
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counter.most_common())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="by SIGKILL, over all phases; other signals come on top")
    parser.add_argument("--minutes", type=float, default=20, help="after which nothing more is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, default=Path("runs/torture"), help="where it happens; emptied first")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.out, ignore_errors=True)
    started = time.monotonic()
    plan = Plan(chosen.kills, started + 60 * chosen.minutes, chosen.seed)
    outcomes = torture(PHASES, chosen.out, plan, _say)
    if chosen.as_json:
        rows = [asdict(outcome) | {"kills": outcome.kills} for outcome in outcomes]
        seconds = round(time.monotonic() - started, 1)
        document = {"kills": chosen.kills, "seed": chosen.seed, "seconds": seconds, "phases": rows}
        print(json.dumps(document, indent=2))  # noqa: T201
    else:
        print(table(outcomes))  # noqa: T201
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
