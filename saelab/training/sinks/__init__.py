"""Where metrics go: `metrics.jsonl` always; Weights & Biases, TensorBoard and trackio where asked for.

A sink takes `log(step, metrics)` and `close()`. The names of metrics are listed in `training/README.md`.
"""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path
from typing import Any

from saelab.files import read_json, write_json
from saelab.training.sinks.base import Guarded, Sink, SinkRun
from saelab.training.sinks.jsonl import JsonLines
from saelab.training.sinks.remote import EVENTS, asked_for
from saelab.training.spec import TrainSpec

__all__ = ["EVENTS", "Guarded", "JsonLines", "Sink", "SinkRun", "check_installed", "open_sinks"]

METRICS = "metrics.jsonl"
RECORD = "sinks.json"
"""What a resumed run has to know: the name of its remote runs, and how far each sink has been told already."""


def check_installed(spec: TrainSpec) -> None:
    """Call before anything that takes long.

    Raises:
        SaelabError: a sink that is asked for is not installed.
    """
    for remote in asked_for(spec):
        remote.check_installed()


def open_sinks(spec: TrainSpec, directory: Path, *, name: str, config: dict[str, Any], step: int = 0) -> list[Sink]:
    """Every sink of a run that begins, or goes on from `step`; the file first.

    Args:
        spec: says which.
        directory: the run's.
        name: the run's, for people.
        config: shown beside its metrics.
        step: lines after it are dropped where they can be, and not told twice where they cannot.

    Raises:
        SaelabError: one that is asked for is not installed, or metrics.jsonl cannot be written.
    """
    check_installed(spec)
    metrics, remotes = directory / METRICS, asked_for(spec)
    identity, told = _recorded(directory)
    run = SinkRun(name, identity, directory, config, step)
    opened: dict[str, Guarded] = {}
    for remote in remotes:
        already = 0 if remote.rewinds else told.get(remote.package, 0)
        opened[remote.package] = Guarded(remote.title, partial(remote.connect, run), told=already)
    if remotes:
        told |= {package: sink.told for package, sink in opened.items() if sink.connected}
        write_json(directory / RECORD, {"id": identity, "told": told})
    JsonLines.cut_back(metrics, step)  # what is cut off is on record by now
    return [JsonLines(metrics), *opened.values()]


def _recorded(directory: Path) -> tuple[str, dict[str, int]]:
    """One identity per run directory, so that a resumed run goes on and a fresh one of the same name does not; and
    the last step that each sink has been told, which metrics.jsonl still knows before it is cut back."""
    path = directory / RECORD
    if not path.exists():
        return uuid.uuid4().hex[:12], {}
    known, last = read_json(path), JsonLines.last_step(directory / METRICS)
    return known["id"], {package: max(step, last) for package, step in known["told"].items()}
