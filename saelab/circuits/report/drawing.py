"""The circuit of a method as a picture."""

from __future__ import annotations

from saelab.circuits.anatomy import INPUT, OUTPUT, head_name
from saelab.circuits.findings import Findings
from saelab.circuits.report.heat import level
from saelab.circuits.report.layout import Layout, Node, Way, label_of, lay_out
from saelab.evals.report.marks import WIDTH, picture, written
from saelab.evals.report.words import count, said
from saelab.features.render import text

_LEFT, _RIGHT, _EDGE = 34.0, 6.0, 16.0
_BETWEEN = (32.0, 26.0)
"""From line to line: where there are edges, and where there are none."""
_WIDE, _HIGH, _NAMED = 40.0, 17.0, 66.0
_THICK = 3.4
_TOLD = 5


def draw(found: Findings, label: str) -> str:
    """The picture: parts coloured by what the method says, framed where they are in the ground truth; edges as thick as
    they are strong, or the residual stream where the method has none."""
    layout, signed = lay_out(found, label), found.methods[label].signed
    places = _Places(layout)
    most = max((abs(node.score) for node in layout.nodes.values() if node.score is not None), default=0.0)

    def shade(node: Node) -> str:
        return "z" if node.score is None else level(node.score, most, signed=signed)

    behind = _edges(places, layout) if layout.ways else _stream(places, layout)
    nodes = "".join(_node(places, found, node, shade(node)) for node in layout.nodes.values())
    return picture(_described(layout), places.height, _layers(places, layout) + behind + nodes)


class _Places:
    """From a layout's places to the picture's."""

    def __init__(self, layout: Layout):
        self.between = _BETWEEN[0 if layout.ways else 1]
        self.height = 2 * _EDGE + self.between * (layout.lines - 1)

    def y(self, line: int) -> float:
        return self.height - _EDGE - line * self.between

    def of(self, node: Node) -> tuple[float, float]:
        return _LEFT + node.x * (WIDTH - _LEFT - _RIGHT), self.y(node.line)


def _described(layout: Layout) -> str:
    layers: dict[int, list[str]] = {}
    for node in layout.nodes.values():
        if node.layer is not None:
            layers.setdefault(node.layer, []).append(node.label)
    said_ = "; ".join(f"layer {layer}: {', '.join(names)}" for layer, names in sorted(layers.items()))
    best = [_way(way) for way in reversed(layout.ways[-_TOLD:])]
    edges = f" {count(len(layout.ways), 'connection')} drawn, the strongest {'; '.join(best)}." if best else ""
    return f"Circuit from the embedding at the bottom to the logits at the top. {said_}.{edges}"


def _way(way: Way) -> str:
    """`5.3 → 9.1: q 0.2, k −0.1`."""
    parts = ", ".join(f"{part} {said(value, 3)}".strip() for part, value in way.parts.items())
    return f"{label_of(way.source)} → {label_of(way.target)}: {parts}"


def _layers(places: _Places, layout: Layout) -> str:
    """Numbers of layers at the side, once each."""
    first: dict[int, int] = {}
    for node in layout.nodes.values():
        if node.layer is not None:
            first[node.layer] = min(first.get(node.layer, node.line), node.line)
    return "".join(written("tick", 14, places.y(line) + 4, str(layer)) for layer, line in first.items())


def _node(places: _Places, found: Findings, node: Node, kind: str) -> str:
    x, y = places.of(node)
    wide = _WIDE if node.score is not None else _NAMED
    true = " true" if node.name in _true(found) else ""
    return (
        f'<rect class="head {kind}{true}" x="{x - wide / 2:.1f}" y="{y - _HIGH / 2:.1f}" width="{wide}" '
        f'height="{_HIGH}" rx="4"><title>{text(_said(found, node))}</title></rect>'
        f"{written('on', x, y + 3.6, node.label)}"
    )


def _true(found: Findings) -> set[str]:
    return {head_name(int(layer), int(head)) for layer, head in found.truth.members.nonzero()}


def _said(found: Findings, node: Node) -> str:
    if node.score is None:
        return node.label
    true = "; in the ground truth" if node.name in _true(found) else ""
    return f"{node.label}: {said(node.score, 3)}{true}"


def _edges(places: _Places, layout: Layout) -> str:
    """Curves that leave upwards and arrive from below, each with a tip."""
    most = max(abs(way.score) for way in layout.ways)
    parts = []
    for way in layout.ways:
        (x, y), (u, v) = (places.of(layout.nodes[name]) for name in (way.source, way.target))
        y, v = y - _HIGH / 2, v + _HIGH / 2 + 3.5
        bend = max(12.0, 0.4 * (y - v))
        thick = 0.7 + (_THICK - 0.7) * abs(way.score) / most
        kind = "edge less" if way.score < 0 else "edge"
        curve = f"M{x:.1f} {y:.1f}C{x:.1f} {y - bend:.1f} {u:.1f} {v + bend:.1f} {u:.1f} {v:.1f}"
        title = f"<title>{text(_way(way))}</title>"
        parts.append(f'<path class="{kind}" stroke-width="{thick:.1f}" d="{curve}">{title}</path>')
        parts.append(f'<path class="tip" d="M{u:.1f} {v - 4:.1f}l3 5h-6z"/>')
    return "".join(parts)


def _stream(places: _Places, layout: Layout) -> str:
    """The residual stream, which all parts beside it read and add to, layer after layer."""
    x, _ = places.of(layout.nodes[INPUT])
    low, high = places.of(layout.nodes[INPUT])[1] - _HIGH / 2, places.of(layout.nodes[OUTPUT])[1] + _HIGH / 2 + 4
    parts = [f'<path class="stream" d="M{x:.1f} {low:.1f}V{high:.1f}"/>']
    for line in range(1, layout.lines - 1):
        end = max(places.of(node)[0] for node in layout.nodes.values() if node.line == line)
        parts.append(f'<path class="way" d="M{x:.1f} {places.y(line):.1f}H{end:.1f}"/>')
    parts.append(f'<path class="tip" d="M{x:.1f} {high - 5:.1f}l5 8h-10z"/>')
    return "".join(parts)
