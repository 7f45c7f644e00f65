"""Run evaluators over a subject and write `eval.json`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from saelab import __version__
from saelab.evals.base import EVALUATORS, Result, Subject
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

    The file is written anew after each evaluator, so an interruption loses at most one. What it already
    holds for the same SAE, activations and version is kept, and not measured again where the settings are
    the same, unless `again`.
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "saelab": __version__,
        "config_sha256": config_sha256,
        "sae_sha256": subject.sae.sha256(),
        "hook": subject.hook,
        "target_hook": subject.target_hook,
        "store_sha256": subject.store.manifest["content_sha256"],
        "evaluations": {},
    }
    evaluators = {name: EVALUATORS[name](**settings) for name, settings in chosen.items()}
    kept = document["evaluations"] = _known(write_to, document)
    write_json(write_to, document)
    for name, evaluator in evaluators.items():
        if not again and kept.get(name, {}).get("settings") == asdict(evaluator):
            continue
        started = time.perf_counter()
        result = evaluator(replace(subject, report=lambda done, total, name=name: report(name, done, total)))
        document["evaluations"][name] = _entry(result, asdict(evaluator), time.perf_counter() - started)
        write_json(write_to, document)
    return document


def _known(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluations already in `eval.json` that are of the same SAE by the same version."""
    old = read_json(path) if path.exists() else {}
    if not isinstance(old, dict) or not isinstance(old.get("evaluations"), dict):
        return {}
    keys = ("schema", "saelab", "sae_sha256", "hook", "target_hook", "store_sha256")
    same = all(old.get(key) == document[key] for key in keys)
    return {name: entry for name, entry in old["evaluations"].items() if isinstance(entry, dict)} if same else {}


def _entry(result: Result, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    entry = {key: value for key, value in asdict(result).items() if value or key in ("metrics", "n_tokens")}
    return {"metrics": entry.pop("metrics"), "settings": settings, **entry, "seconds": round(seconds, 2)}
