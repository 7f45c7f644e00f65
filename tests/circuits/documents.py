"""`circuit.json` made by hand: whole ones, and ones whose every text could be taken for something else."""

from __future__ import annotations

from typing import Any

import torch

from saelab.testing.bundles import HOSTILE

SCRIPT = HOSTILE[0]
LAYERS, HEADS = 6, 4
INSIDE = ((1, 2), (4, 0), (5, 3))


def document(*, seeds: int = 2, text: str = "") -> dict[str, Any]:
    """With all that the command writes; `text` is put into every name and description."""
    labels = [f"first{text}", f"edges{text}", f"third{text}"]
    curves = {labels[0]: {"strength": curve(), "signed": curve()}, labels[1]: {"strength": curve(complement=False)}}
    return {
        "schema": 1,
        "saelab": "0.1.0",
        "name": f"circuit{text}",
        "model": {"name": f"asset:some-model{text}"},
        "task": f"ioi{text}",
        "shape": [LAYERS, HEADS],
        "kv_heads": 2,
        "prompts": {"truth": 48, "curves": 32},
        "competence": {"accuracy": 0.975, "clean": 3.5, "corrupted": 0.25},
        "truths": {
            "0.02": {"source": f"exact patching{text}", "heads": listed(INSIDE), "effects": numbers(7, scale=0.2)},
            f"a paper{text}": {"source": f"a paper{text}", "heads": listed(INSIDE[:1]), "effects": None},
        },
        "methods": {label: {"seeds": [seed(i, n, text) for i in range(seeds)]} for n, label in enumerate(labels)},
        "curves": {"ablation": "corrupted", "methods": curves, "random": [curve(0.1), curve(0.2)]},
        "together": {"ablation": "corrupted", "heads": listed(INSIDE), "loss": 2.5, "matched": [0.25, -0.125]},
        "features": {
            "run": f"runs/ioi{text}",
            "hook": f"blocks.4.hook_resid_post{text}",
            "layer": 4,
            "sae_sha256": "a",
            "prompts": 16,
            "total": 3.0,
            "error": 0.5,
            "masked": 0.0,
            "heads": listed(INSIDE[:2]),
            "latents": [
                {"latent": 3, "score": 1.5, "exact": 1.25, "clean": 2.0, "corrupted": 0.5, "fed": [0.25, 1.0]},
                {"latent": 9, "score": -0.5, "exact": None, "clean": 0.0, "corrupted": 1.0, "fed": [0.0, 0.0]},
            ],
        },
        "circuit": {"method": labels[1], "heads": 5},
        "config": f"name: circuit\ntask: ioi{text}\n",
    }


def numbers(number: int, *, scale: float = 1.0) -> list[list[float]]:
    rng = torch.Generator().manual_seed(number)
    return (scale * torch.randn(LAYERS, HEADS, generator=rng)).tolist()


def seed(number: int, method: int, text: str = "") -> dict[str, Any]:
    """What the first method finds is signed; the second has MLPs and edges."""
    rankings = {"auc": 0.9 - 0.1 * method + 0.02 * number, "average_precision": 0.5, "rank_correlation": None}
    found: dict[str, Any] = {
        "method": ["attribution", "eap", f"of a plug-in{text}"][method],
        "heads": numbers(10 * method + number),
        "mlps": [1.0] * LAYERS if method == 1 else None,
        "signed": method == 0,
        "cost": {"prompts": 64, "forwards": 64.0, "backwards": 32.0, "seconds": 1.5},
        "rankings": {"0.02": rankings, f"a paper{text}": rankings},
    }
    if method != 0:
        found["heads"] = [[abs(value) for value in row] for row in found["heads"]]
    if method == 1:
        edges = [(f"a{layer}.h{head}", f"a{layer + 1}.h{(head + 1) % HEADS}<q>", 0.5 - head) for layer, head in every()]
        edges += [
            ("a0.h1", "a3.g1<k>", 0.75),
            ("input", "a0.h0<v>", -0.25),
            ("a5.h3", "logits", 2.0),
            ("m2", "m3", 1.0),
        ]
        found["edges"] = [list(edge) for edge in edges]
    return found


def every() -> list[tuple[int, int]]:
    return [(layer, head) for layer in range(LAYERS - 1) for head in range(HEADS)]


def curve(level: float = 0.8, *, complement: bool = True) -> dict[str, Any]:
    return {
        "ablation": "corrupted",
        "sizes": [0, 0, 2, 24],
        "shares": [0.001, 0.01, 0.1, 1.0],
        "faithfulness": [0.0, 0.0, level, 1.0],
        "intervals": [None, None, [level - 0.1, level + 0.1], [1.0, 1.0]],
        "completeness": [1.0, 1.0, 0.1, 0.0] if complement else [],
        "cpr": 0.7,
        "cmd": 0.3,
    }


def listed(heads: tuple[tuple[int, int], ...]) -> list[list[int]]:
    return [list(head) for head in heads]
