"""Run evaluators over a subject and write `eval.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from saelab import __version__
from saelab.evals.base import EVALUATORS, NotMeasurable, Result, Subject
from saelab.files import read_json, write_json

SCHEMA = 1


def evaluate(
    subject: Subject,
    chosen: Mapping[str, Mapping[str, Any]],
    *,
    config_sha256: str,
    write_to: Path,
    again: bool = False,
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, Any]:
    """Run the evaluators in `chosen` (name -> settings) and return what `eval.json` holds.

    The file is written anew after each evaluator, and after each part of one that has parts. What it already
    holds for the same SAE, activations and version is kept, and not measured again where the settings are
    the same, unless `again`; an evaluator that was interrupted goes on with its next part.
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "saelab": __version__,
        "config_sha256": config_sha256,
        "sae_sha256": subject.sae.sha256(),
        "hook": subject.hook,
        "target_hook": subject.target_hook,
        "store_sha256": subject.store.content_sha256,
        "evaluations": {},
        "unfinished": {},
    }
    evaluators = {name: EVALUATORS[name](**settings) for name, settings in chosen.items()}
    document |= _known(write_to, document)
    for name in evaluators if again else ():
        document["evaluations"].pop(name, None)
        document["unfinished"].pop(name, None)
    write_json(write_to, document)
    for name, evaluator in evaluators.items():
        settings = json.loads(json.dumps(asdict(evaluator)))  # as the file gives them back: tuples are lists
        if document["evaluations"].get(name, {}).get("settings") == settings:
            continue
        started = time.perf_counter()
        parts = _parts(document, name, settings)

        def part(key: str, make: Callable[[], Any], parts: dict[str, Any] = parts) -> Any:
            if key not in parts:
                parts[key] = make()
                write_json(write_to, document)
            return parts[key]

        tell = partial(report, name)
        try:
            result = evaluator(replace(subject, report=tell, part=part))
        except NotMeasurable as reason:
            result = Result({}, n_tokens=0, not_measurable={name: reason.message})
        document["evaluations"][name] = _entry(result, settings, time.perf_counter() - started)
        del document["unfinished"][name]
        write_json(write_to, document)
    return document


def _parts(document: dict[str, Any], name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted evaluation of the same settings has made; kept in the document."""
    unfinished = document["unfinished"]
    if unfinished.get(name, {}).get("settings") != settings:
        unfinished[name] = {"settings": settings, "parts": {}}
    return unfinished[name]["parts"]


def _known(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluations, whole and begun, already in `eval.json` that are of the same SAE by the same version."""
    old = read_json(path) if path.exists() else {}
    keys = ("schema", "saelab", "sae_sha256", "hook", "target_hook", "store_sha256")
    if not isinstance(old, dict) or any(old.get(key) != document[key] for key in keys):
        return {}
    return {key: _entries(old.get(key)) for key in ("evaluations", "unfinished")}


def _entries(found: Any) -> dict[str, Any]:
    entries = found.items() if isinstance(found, dict) else ()
    return {
        name: entry for name, entry in entries if isinstance(entry, dict) and isinstance(entry.get("settings"), dict)
    }


def _entry(result: Result, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    entry = {key: value for key, value in asdict(result).items() if value or key in ("metrics", "n_tokens")}
    return {"metrics": entry.pop("metrics"), "settings": settings, **entry, "seconds": round(seconds, 2)}
