"""Runs for reports, made by hand: whole ones, and ones whose every text could be taken for something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saelab.files import write_json, write_text
from saelab.testing.bundles import HOSTILE, tiny_bundle

SCRIPT, IMAGE, _, _, BIDI = HOSTILE[:5]


def whole_run(path: Path, write_run: Callable[..., Path], **found: float) -> Path:
    """With curves, provenance, measurements of two evaluators, one of them unknown, and an index."""
    write_run(path, **found)
    lines = [
        {
            "step": n,
            "tokens": 100.0 * n,
            "losses/total": 1 / n,
            "losses/normalised_mse": 1 / n,
            "losses/auxk": 0.0,
            "metrics/l0": 8.0,
            "heldout/fvu": 0.9 / n,
            "heldout/l0": 8.1,
            "metrics/dead_latents": n,
        }
        for n in range(1, 11)
    ]
    write_text(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    provenance = {
        "model": {"name": "asset:tiny-lm"},
        "hook": "blocks.1.hook_resid_post",
        "data": {"files": {"a.txt": "0"}},
    }
    settings = {"n_latents": 64, "k": 8}
    write_json(
        path / "sae" / "config.json", {"kind": "topk", "settings": settings, "d_in": 16, "provenance": provenance}
    )
    document = json.loads((path / "eval.json").read_text())
    document["evaluations"]["reconstruction"] |= {
        "n_tokens": 1234,
        "intervals": {"ce_score": [0.8, 0.95]},
        "meaning": {"fvu": "share not reconstructed", "ce_score": "share recovered"},
        "settings": {"max_tokens": None},
    }
    charm = found.get("fvu", 0.1)
    document["evaluations"]["of_a_plug_in"] = {
        "metrics": {"charm_frac": 0.25},
        "n_tokens": 0,
        "n_examples": 40,
        "meaning": {"charm_frac": "share of charm"},
        "settings": {},
        "tables": [
            {
                "title": "Charms",
                "columns": ["name", "charm"],
                "rows": [["up", 1.5], ["down", None]],
                "caption": "By name.",
            }
        ],
        "charts": [
            {
                "title": "Charm by k",
                "x": "k",
                "y": "charm",
                "series": {"own": [[1, charm, charm / 2, 2 * charm], [10, 0.2]], "null": [[1, 0.0]]},
                "log_x": True,
            }
        ],
        "not_measurable": {"strangeness": "the dictionary is too small"},
    }
    del document["evaluations"]["downstream"]
    write_json(path / "eval.json", document)
    tiny_bundle(path / "index")
    return path


def hostile_run(path: Path, write_run: Callable[..., Path]) -> Path:
    """Every text that can be markup is; numbers are missing, endless, or not numbers."""
    write_run(path)
    long = "x" * 5_000
    provenance = {
        "model": {"name": SCRIPT, "content": IMAGE},
        "hook": f"{BIDI}{SCRIPT}",
        "data": {"files": {text: text for text in HOSTILE[:5]}},
        "mask": [1, 2],
        "windows": "none",
    }
    write_json(
        path / "sae" / "config.json",
        {"kind": IMAGE, "settings": {SCRIPT: SCRIPT, "n_latents": "many"}, "provenance": provenance},
    )
    write_json(path / "summary.json", {"tokens": 1000, "machine": {IMAGE: SCRIPT}, "versions": [], "heldout": None})
    (path / "config.yaml").write_text(f"name: x\nsae: {{kind: topk}}\n# {SCRIPT} {IMAGE}\n")
    entry = {
        "metrics": {
            SCRIPT: 0.5,
            "fvu": float("nan"),
            "l0": None,
            "deep": [1],
            IMAGE: 1e999,
            "ce_score": 10**400,
            BIDI: -1e300,
        },
        "n_tokens": "many",
        "meaning": {SCRIPT: IMAGE, BIDI: BIDI, "deep": 3},
        "intervals": {SCRIPT: [float("nan"), 1], BIDI: "none"},
        "settings": {SCRIPT: [IMAGE, {"a": None}], "long": long},
        "tables": [
            {
                "title": SCRIPT,
                "columns": [IMAGE, BIDI, "n"],
                "rows": [[SCRIPT, IMAGE, float("inf")], [], [1], 5, [True, long, {}]],
                "caption": IMAGE,
            },
            {"title": "no columns", "rows": [[1]]},
            7,
        ],
        "charts": [
            {
                "title": SCRIPT,
                "x": IMAGE,
                "y": BIDI,
                "kind": SCRIPT,
                "caption": IMAGE,
                "series": {IMAGE: [[0, 1], [1, float("nan")], ["a", 1], [2, 1e300], [3], "x"], BIDI: [[SCRIPT, 2]]},
            },
            {
                "title": "log",
                "x": "x",
                "y": "y",
                "log_x": True,
                "log_y": True,
                "series": {"a": [[0, 0], [-1, 5], [1e-320, 1]]},
            },
            {"title": "bars", "x": "x", "y": "y", "kind": "bars", "series": {SCRIPT: [[IMAGE, -1], [SCRIPT, 2]]}},
            {"title": "empty", "series": {}},
            None,
        ],
        "not_measurable": {SCRIPT: IMAGE, "x": 5},
    }
    document = {
        "sae_sha256": "a",
        "evaluations": {SCRIPT: entry, "nothing": {"metrics": {}}, "bare": 5},
        "unfinished": [1],
    }
    (path / "eval.json").write_text(json.dumps(document))
    lines = [
        '{"step": 1, "losses/total": NaN}',
        '{"step": "x"}',
        "[1]",
        '{"step": 2, "losses/total": 1.0}',
        '{"step":',
    ]
    (path / "metrics.jsonl").write_text("\n".join(lines))
    tiny_bundle(path / "index", hostile=True, signed=True)
    return path


def matching_index(path: Path) -> Path:
    """Let the run's SAE be the one that was indexed and measured."""
    sae: dict[str, Any] = json.loads((path / "index" / "manifest.json").read_text())["sae"]
    for name in ("summary.json", "eval.json"):
        document = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(document | {"sae_sha256": sae["sha256"]}))
    return path
