"""Circuits as JSON that MIB's circuit track and EAP-IG read (`Graph.from_json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from saelab.circuits.anatomy import INPUT, OUTPUT, Anatomy, head_name, mlp_name, readers
from saelab.circuits.scores import Edges, Scores
from saelab.files import write_json


def mib_circuit(scores: Scores, circuit: Tensor, anatomy: Anatomy) -> dict[str, Any]:
    """`cfg`, `nodes` and, where the method has scores of them, `edges`.

    Heads that share a key and a value have edges of their own there, and each gets an equal part of the group's score.
    A node without a score has none in the file, and readers keep it. An edge is in the circuit where both its ends
    are; the MLPs, the input and the output are.

    Args:
        circuit: `[layer, head]` bool.
    """
    nodes: dict[str, dict[str, Any]] = {INPUT: {"in_graph": True}}
    for layer in range(anatomy.n_layers):
        for head in range(anatomy.n_heads):
            score = float(scores.heads[layer, head])
            nodes[head_name(layer, head)] = {"in_graph": bool(circuit[layer, head]), "score": score}
        nodes[mlp_name(layer)] = {"in_graph": anatomy.has_mlps}
        if scores.mlps is not None:
            nodes[mlp_name(layer)]["score"] = float(scores.mlps[layer])
    nodes[OUTPUT] = {"in_graph": True}
    config = {
        "n_layers": anatomy.n_layers,
        "n_heads": anatomy.n_heads,
        "parallel_attn_mlp": anatomy.parallel,
        "d_model": anatomy.d_model,
    }
    edges = {} if scores.edges is None or OUTPUT not in scores.edges.targets else _edges(scores.edges, nodes, anatomy)
    return {"cfg": config, "nodes": nodes, "edges": edges}


def write_mib_circuit(path: Path, scores: Scores, circuit: Tensor, anatomy: Anatomy) -> None:
    """Write `mib_circuit` to a file."""
    write_json(path, mib_circuit(scores, circuit, anatomy))


def _edges(edges: Edges, nodes: dict[str, dict[str, Any]], anatomy: Anatomy) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    shared = anatomy.n_heads // anatomy.n_kv_heads
    for column, target in enumerate(edges.targets):
        reading = readers(target, shared)
        for row in edges.exist[:, column].nonzero()[:, 0].tolist():
            source, value = edges.sources[row], float(edges.values[row, column]) / len(reading)
            for reader in reading:
                inside = nodes[source]["in_graph"] and nodes[reader.partition("<")[0]]["in_graph"]
                found[f"{source}->{reader}"] = {"score": value, "in_graph": inside}
    return found
