"""saelab's exports loaded by the tools they are for, and their SAEs loaded here: `make interop`.

    python -m tests.interop_peers [--only saelens sparsify ...] [--steps 30] [--json FILE]
    python -m tests.interop_peers --evals RUN [--by SAEBench] [--contexts 24] [--json FILE]

Every variant goes out in every format that has a form for it, is loaded by the tool's own loader, and compared on the
same activations: codes, reconstructions, which latents are active. Then the tools train SAEs, a few steps on synthetic
data, and save them, and saelab loads those. Last a run is pushed to a stand-in of the hub, and the tools load it from
there as its card says. With --evals, their own evaluation measures a run's SAE, beside `saelab eval` by SAEBench's
convention.

Exit code 1 where anything is red.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.interop.hub_stand_in import HubStandIn

PEERS = ("saelens", "sparsify", "dictionary_learning")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS, help="these tools")
    parser.add_argument("--steps", type=int, default=30, help="of training, there")
    parser.add_argument("--json", type=Path, help="a file to write every number to")
    parser.add_argument("--evals", type=Path, metavar="RUN", help="measure this run's SAE, and nothing else")
    parser.add_argument(
        "--by", choices=("SAELens", "SAEBench"), default="SAELens", help="whose evaluation, for --evals"
    )
    parser.add_argument("--contexts", type=int, default=24, help="how many of the run's held-out ones, for --evals")
    parser.add_argument("--saelab", default=".venv/bin/python", help="the Python of saelab's own, for --evals")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # the peers' dependencies have many
    document, good = _formats(chosen) if chosen.evals is None else _evals(chosen)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


def _formats(chosen: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    with HubStandIn() as hub, TemporaryDirectory() as temporary:
        # Before anything imports the hub's client.
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": temporary, "HF_HUB_DISABLE_XET": "1"}
        os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "WANDB_MODE": "disabled"}
        from . import formats
        from .outcomes import TOLERANCE, tables

        outcomes = list(_told(formats.every(chosen.only, chosen.steps, Path(temporary))))
    console = _console()
    for table in tables(outcomes):
        console.print(table, "", sep="\n")
    red = [one for one in outcomes if one.red]
    for one in red:
        console.print(f"RED {one.way} {one.format} {one.variant}: {one.failed or one}", markup=False, soft_wrap=True)
    done = [one for one in outcomes if not one.refused]
    console.print(f"{len(done) - len(red)} of {len(done)} comparisons are equal to {TOLERANCE:g}", highlight=False)
    return {"tolerance": TOLERANCE, "outcomes": [one.document() for one in outcomes]}, not red


def _evals(chosen: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    from . import evals

    return evals.compare(chosen.evals, chosen.by, chosen.contexts, chosen.saelab, _console())


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _told(outcomes: Iterator[Any]) -> Iterator[Any]:
    """The same, and a line on standard error for each."""
    started = time.perf_counter()
    for one in outcomes:
        state = "RED" if one.red else "not there" if one.refused else "ok"
        seconds = time.perf_counter() - started
        sys.stderr.write(f"[{seconds:5.0f} s] {one.way}: {one.format}, {one.variant}: {state}\n")
        yield one


if __name__ == "__main__":
    sys.exit(main())
