"""Scores and truths as JSON; all edges as tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saelab.circuits.scores import Cost, Edges, Scores
from saelab.circuits.truth import Truth
from saelab.files import read_metadata, read_tensors, write_tensors

_EDGES = 200
"""How many of the strongest edges are written as JSON."""


def scores_json(scores: Scores) -> dict[str, Any]:
    """What is kept of a method's scores."""
    cost = scores.cost
    found = {
        "method": scores.method,
        "heads": rounded(scores.heads),
        "mlps": None if scores.mlps is None else rounded(scores.mlps),
        "signed": scores.signed,
        "details": dict(scores.details),
        "cost": {key: round(getattr(cost, key), 3) for key in ("prompts", "forwards", "backwards", "seconds")},
    }
    if scores.edges is not None:
        values = scores.edges.values
        best = values.abs().flatten().sort(descending=True, stable=True).indices[:_EDGES].tolist()
        places = [divmod(i, values.shape[1]) for i in best]
        found["edges"] = [[scores.edges.sources[i], scores.edges.targets[j], float(values[i, j])] for i, j in places]
    return found


def scores_of(document: Mapping[str, Any]) -> Scores:
    """The scores of heads and MLPs that `scores_json` wrote."""
    mlps = None if document["mlps"] is None else torch.tensor(document["mlps"])
    heads = torch.tensor(document["heads"])
    return Scores(document["method"], heads, Cost(**document["cost"]), document["signed"], mlps)


def write_edges(path: Path, edges: Edges) -> None:
    """All of them."""
    names = {"sources": json.dumps(edges.sources), "targets": json.dumps(edges.targets)}
    write_tensors(path, {"values": edges.values, "exist": edges.exist}, names)


def read_edges(path: Path) -> Edges:
    """What `write_edges` wrote."""
    tensors, names = read_tensors(path), read_metadata(path)
    sources, targets = (tuple(json.loads(names[key])) for key in ("sources", "targets"))
    return Edges(sources, targets, tensors["values"], tensors["exist"])


def truth_json(truth: Truth) -> dict[str, Any]:
    effects = None if truth.effects is None else rounded(truth.effects)
    heads = [[int(i) for i in place] for place in truth.members.nonzero()]
    return {"source": truth.source, "heads": heads, "effects": effects}


def rounded(values: Tensor) -> list[Any]:
    """To six digits: enough for any table, and a third of the file."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(values.double().numpy()).tolist()
