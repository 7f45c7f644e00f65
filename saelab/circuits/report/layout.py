"""Where the parts of a circuit stand in its picture: the input at the bottom, layer above layer, the logits above."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from saelab.circuits.anatomy import INPUT, OUTPUT, head_name, mlp_name, readers
from saelab.circuits.findings import Edge, Findings
from saelab.circuits.scores import strength

MOST_MLPS = 10
_HEAD, _MLP = re.compile(r"a(\d+)\.h(\d+)"), re.compile(r"m(\d+)")
_SIDE_BY_SIDE, _ON_A_RUNG = 7, 6
"""More heads of a layer stand in several lines; on a rung of a ladder there is less room."""
_RAIL, _FIRST_RUNG, _RUNG = 0.11, 0.235, 0.14
"""Of a ladder: where the residual stream stands, the first head beside it, and how far it is to the next."""
_SWEEPS = 4
_LEAST, _MOST_WAYS = 0.02, 60
"""Edges that are weaker than this share of the strongest are not drawn, nor more than so many."""


@dataclass(frozen=True)
class Node:
    """A part of the circuit.

    Attributes:
        name: `a5.h3`, `m2`, `input`, `logits`; label: what is written on it.
        layer: None for the input and the logits.
        score: what the method says of it; None where it says nothing.
        x: in [0, 1]; line: from the bottom.
    """

    name: str
    label: str
    layer: int | None
    score: float | None
    x: float
    line: int


@dataclass(frozen=True)
class Way:
    """All edges from one part to another.

    Attributes:
        parts: score by what of the target reads: `q`, `k`, `v`, or nothing.
    """

    source: str
    target: str
    parts: Mapping[str, float]

    @property
    def score(self) -> float:
        """Of the strongest."""
        return max(self.parts.values(), key=abs)


@dataclass(frozen=True)
class Layout:
    """Nodes by name, and ways between them, the weakest first."""

    nodes: Mapping[str, Node]
    ways: Sequence[Way]

    @property
    def lines(self) -> int:
        return 1 + max(node.line for node in self.nodes.values())


def lay_out(found: Findings, label: str) -> Layout:
    """The circuit of a method: its strongest heads, MLPs that are as strong, and the strongest edges between them."""
    scores = found.methods[label].scores[0]
    heads = found.circuit(label)
    score = {head_name(*head): float(scores.heads[head]) for head in heads}
    if scores.mlps is not None:
        least = min((float(scores.strength[head]) for head in heads), default=0.0)
        strengths = strength(scores.mlps, signed=scores.signed)
        order = strengths.argsort(descending=True, stable=True)[:MOST_MLPS].tolist()
        score |= {mlp_name(layer): float(scores.mlps[layer]) for layer in order if strengths[layer] >= least}
    shown = {INPUT, OUTPUT, *score}
    ways = _strong(_ways(found.methods[label].edges, shown, _heads_per_group(found)))
    lines = [[INPUT], *_lines(score, _SIDE_BY_SIDE if ways else _ON_A_RUNG), [OUTPUT]]
    places = map(_staggered, _ordered(lines, ways), range(len(lines))) if ways else map(_ladder, lines)
    return Layout(_nodes(places, score), ways)


def layer_of(name: str) -> int | None:
    """Of a head or an MLP."""
    match = _HEAD.fullmatch(name) or _MLP.fullmatch(name)
    return int(match[1]) if match else None


def label_of(name: str) -> str:
    """`5.3`, `MLP 2`, `embedding`, `logits`."""
    if match := _HEAD.fullmatch(name):
        return f"{int(match[1])}.{int(match[2])}"
    if match := _MLP.fullmatch(name):
        return f"MLP {int(match[1])}"
    return {INPUT: "embedding", OUTPUT: "logits"}.get(name, name)


def _heads_per_group(found: Findings) -> int:
    return max(1, found.shape[1] // found.kv_heads)


# -- edges --------------------------------------------------------------------------------------------


def _ways(edges: Sequence[Edge], shown: set[str], shared: int) -> list[Way]:
    """Edges between parts that are shown, those between the same two as one, upwards."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for source, target, value in edges:
        for name in readers(target, shared):
            reader, _, part = name.partition("<")
            ends = (source, reader) if _depth(source) <= _depth(reader) else (reader, source)
            if shown.issuperset(ends) and _depth(ends[0]) < _depth(ends[1]):
                parts = found.setdefault(ends, {})
                parts[part.rstrip(">")] = max(parts.get(part.rstrip(">"), 0.0), value, key=abs)
    return [Way(*ends, parts) for ends, parts in found.items()]


def _strong(ways: Sequence[Way]) -> list[Way]:
    """Those that are to be seen, the weakest first."""
    most = max((abs(way.score) for way in ways), default=0.0)
    kept = [way for way in ways if abs(way.score) >= _LEAST * most]
    return sorted(kept, key=lambda way: abs(way.score))[-_MOST_WAYS:]


def _depth(name: str) -> float:
    """How far up a part stands: MLPs after the heads of their layer."""
    layer = layer_of(name)
    if layer is None:
        return -1.0 if name == INPUT else float("inf")
    return layer + 0.5 * bool(_MLP.fullmatch(name))


# -- places -------------------------------------------------------------------------------------------


def _lines(names: Mapping[str, float], most: int) -> list[list[str]]:
    """From the bottom: the heads of each layer, in several lines where they are more than so many, then its MLP."""
    found: list[list[str]] = []
    for depth in sorted({_depth(name) for name in names}):
        level = sorted((name for name in names if _depth(name) == depth), key=_number)
        found += [level[i : i + most] for i in range(0, len(level), most)]
    return found


def _number(name: str) -> int:
    match = _HEAD.fullmatch(name)
    return int(match[2]) if match else 0


def _ordered(lines: Sequence[Sequence[str]], ways: Sequence[Way]) -> list[list[str]]:
    """Each line in the order in which its parts' neighbours stand on average, so that few edges cross."""
    near: dict[str, dict[str, float]] = {}
    for way in ways:
        for one, other in ((way.source, way.target), (way.target, way.source)):
            near.setdefault(one, {})[other] = abs(way.score)
    found = [list(line) for line in lines]
    for _ in range(_SWEEPS):
        place = {name: x for line in found for name, x in zip(line, _spread(len(line)), strict=True)}
        for line in found:
            line.sort(key=lambda name: _middle(near.get(name, {}), place, place[name]))
            place |= dict(zip(line, _spread(len(line)), strict=True))
    return found


def _middle(near: Mapping[str, float], place: Mapping[str, float], own: float) -> float:
    total = sum(near.values())
    return sum(place[name] * weight for name, weight in near.items()) / total if total else own


def _spread(count: int) -> list[float]:
    """Places in [0, 1]; few stand around the middle."""
    room = 1.0 / max(_SIDE_BY_SIDE, count)
    return [0.5 + (i - (count - 1) / 2) * room for i in range(count)]


def _nodes(places: Iterable[Mapping[str, float]], score: Mapping[str, float]) -> dict[str, Node]:
    return {
        name: Node(name, label_of(name), layer_of(name), score.get(name), x, number)
        for number, line in enumerate(places)
        for name, x in line.items()
    }


def _staggered(line: Sequence[str], number: int) -> dict[str, float]:
    """Single parts of neighbouring lines stand a little aside of each other, so that edges past them are seen."""
    places = _spread(len(line))
    if len(line) <= 3 and layer_of(line[0]) is not None:
        aside = (0.0, 0.14, -0.14, 0.28, -0.28)[number % 5]
        places = [min(max(x + aside, 0.07), 0.93) for x in places]
    return dict(zip(line, places, strict=True))


def _ladder(line: Sequence[str]) -> dict[str, float]:
    """Where no edges are known, parts stand beside the residual stream, by number."""
    if layer_of(line[0]) is None:
        return {line[0]: _RAIL}
    return {name: _FIRST_RUNG + _RUNG * place for place, name in enumerate(line)}
