"""MIB's JSON: names, counts and shares as its readers expect."""

from __future__ import annotations

import json

import pytest
import torch

from saelab.circuits import METHODS, Anatomy, mib_circuit, write_mib_circuit


def test_nodes_and_edges(word_lm, pairs, tmp_path):
    anatomy = Anatomy.of(word_lm)
    scores = METHODS["eap"]()(word_lm, pairs)
    circuit = torch.zeros(3, 4, dtype=torch.bool)
    circuit[0, 1] = circuit[2, 3] = True
    write_mib_circuit(tmp_path / "circuit.json", scores, circuit, anatomy)
    found = json.loads((tmp_path / "circuit.json").read_text())
    assert found["cfg"] == {"n_layers": 3, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32}
    names = [f"a{layer}.h{head}" for layer in range(3) for head in range(4)] + [f"m{layer}" for layer in range(3)]
    assert set(found["nodes"]) == {"input", "logits", *names}
    assert [name for name in names[:12] if found["nodes"][name]["in_graph"]] == ["a0.h1", "a2.h3"]
    # Of layer l: 1 + 5 l sources into 4 heads' queries, keys and values, 5 + 5 l into the MLP; 16 into the logits.
    assert len(found["edges"]) == sum(12 * (1 + 5 * layer) + 5 + 5 * layer for layer in range(3)) + 16
    inside = {name for name, edge in found["edges"].items() if edge["in_graph"]}
    assert {"input->a0.h1<q>", "a0.h1->a2.h3<k>", "m1->logits", "a2.h3->m2"} <= inside
    assert not {"input->a0.h0<q>", "a0.h0->logits", "a0.h1->a1.h0<v>"} & inside


def test_a_groups_score_is_shared_by_its_heads(word_lm, pairs):
    anatomy, scores = Anatomy.of(word_lm), METHODS["eap"]()(word_lm, pairs)
    assert scores.edges is not None
    found = mib_circuit(scores, torch.ones(3, 4, dtype=torch.bool), anatomy)["edges"]
    row = scores.edges.values[scores.edges.sources.index("m0")]
    group = "a1.g1<k>" if anatomy.n_kv_heads == 2 else "a1.h2<k>"
    first = found["m0->a1.h2<k>"]["score"]
    assert first == pytest.approx(float(row[scores.edges.targets.index(group)]) / (4 // anatomy.n_kv_heads))
    total = sum(edge["score"] for name, edge in found.items() if name.startswith("m0->"))
    assert total == pytest.approx(float(row.sum()), rel=1e-4, abs=1e-6)


def test_scores_of_heads_alone_are_nodes(planted, planted_lm, planted_pairs):
    scores = METHODS["mean_difference"]()(planted_lm, planted_pairs)
    found = mib_circuit(scores, planted.members(), Anatomy.of(planted_lm))
    assert found["edges"] == {}
    assert found["nodes"]["a0.h0"]["score"] == pytest.approx(float(scores.heads[0, 0]))
    assert "score" not in found["nodes"]["m0"]
