"""A number for every head as a picture: a cell for each, layers from left to right, heads from top to bottom.

Colour grows faster than the numbers at first, so that the small ones are seen too; the scale below says how. Above and
below 0 are two hues, and what is far below has a line through it besides; of numbers without a sign, what is below 0 is
nothing. Cells of the ground truth have a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from saelab.circuits.scores import strength, strongest
from saelab.evals.report import axes
from saelab.evals.report.marks import LETTER, WIDTH, picture, written
from saelab.evals.report.words import said
from saelab.features.render import text

LEVELS = 8
"""Shades of each hue, besides none."""
_LEFT, _TOP, _RIGHT = 26.0, 4.0, 6.0
_CELL, _ROW = 30.0, (6.0, 17.0)
"""The largest width of a cell; the least and the largest height."""
_TICKS, _STRIP, _WIDE = 18.0, 36.0, 200.0
"""Room for the layers' numbers, and for the scale; the scale's width."""
_POWER = 0.7
"""Shades grow with a number's share of the largest to this power."""
_TOLD = 5
_LINED = 3
"""From this shade on, a line says that a number is below 0."""


def level(value: float, most: float, *, signed: bool = True) -> str:
    """The class that colours a number: `z`, `p1` to `p8` and, of signed ones, `n1` to `n8`."""
    far = abs(value) if signed else max(value, 0.0)
    share = (min(far / most, 1.0) if most > 0 else 0.0) ** _POWER
    shade = round(LEVELS * share)
    return "z" if not shade else f"{'p' if value > 0 else 'n'}{shade}"


def style() -> str:
    """The colours: a mixture of a series' colour and the cell's; less strong where something is written on them."""
    rules = [".z { fill: var(--cell); }"]
    for shade in range(1, LEVELS + 1):
        share = 10 + 90 * shade / LEVELS
        for kind, hue in ((f".p{shade}", "--c1"), (f".n{shade}", "--c0")):
            rules += [
                f"{kind} {{ fill: color-mix(in srgb, var({hue}) {share:.0f}%, var(--cell)); }}",
                f".head{kind} {{ fill: color-mix(in srgb, var({hue}) {0.42 * share:.0f}%, var(--cell)); }}",
            ]
    return "\n".join(rules)


@dataclass(frozen=True)
class Cells:
    """Where the cells stand."""

    layers: int
    heads: int

    @property
    def width(self) -> float:
        return min((WIDTH - _LEFT - _RIGHT) / self.layers, _CELL)

    @property
    def height(self) -> float:
        return min(max(0.8 * self.width, 110 / self.heads, _ROW[0]), _ROW[1])

    @property
    def bottom(self) -> float:
        return _TOP + self.height * self.heads

    def at(self, layer: int, head: int) -> tuple[float, float]:
        """The corner at the upper left."""
        return _LEFT + layer * self.width, _TOP + head * self.height


def heat(title: str, values: Tensor, tell: Callable[[int, int], str], *, inside: Tensor, signed: bool = True) -> str:
    """The picture.

    Args:
        title: what the numbers are, for those who do not see it.
        values: `[layer, head]`.
        tell: what is said of a head (layer, head) where it is pointed at, any text.
        inside: `[layer, head]` bool: which cells are framed.
        signed: whether what is below 0 matters too, the other way.
    """
    cells, strengths = Cells(*values.shape), strength(values, signed=signed)
    most = max(float(strengths.max()), 0.0)
    drawn, framed = [], []
    for layer, row in enumerate(values.tolist()):
        for head, value in enumerate(row):
            hover = f"<title>{text(tell(layer, head))}</title>"
            drawn.append(_cell(cells, layer, head, level(value, most, signed=signed), hover))
            if inside[layer, head]:
                framed.append(_outline(cells, layer, head))
    body = "".join(drawn) + (f'<path class="in" d="{"".join(framed)}"/>' if framed else "")
    body += _ticks(cells) + _scale(cells.bottom + _TICKS, most, signed=signed and bool((values < 0).any()))
    first = [f"{layer}.{head} {said(float(values[layer, head]), 3)}" for layer, head in strongest(strengths, _TOLD)]
    described = f"{title}, by layer and head. Strongest: {'; '.join(first)}."
    return picture(described, cells.bottom + _TICKS + _STRIP, body)


def _cell(cells: Cells, layer: int, head: int, kind: str, inner: str) -> str:
    x, y = cells.at(layer, head)
    gap = 0.5 if cells.width > 5 else 0.0
    w, h = cells.width - gap, cells.height - gap
    drawn = f'<path class="h {kind}" d="M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h-{w:.1f}z">{inner}</path>'
    if kind[0] != "n" or int(kind[1:]) < _LINED:
        return drawn
    return drawn + f'<path class="minus" d="M{x + 0.2 * w:.1f} {y + h / 2:.1f}h{0.6 * w:.1f}"/>'


def _outline(cells: Cells, layer: int, head: int) -> str:
    x, y = cells.at(layer, head)
    w, h = cells.width - 0.5, cells.height - 0.5
    return f"M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h-{w:.1f}z"


def _ticks(cells: Cells) -> str:
    layers, heads = _named(cells.layers, cells.width, LETTER * 2 + 6), _named(cells.heads, cells.height, 11.5)
    below = (
        written("tick", cells.at(layer, 0)[0] + cells.width / 2, cells.bottom + 12, str(layer)) for layer in layers
    )
    beside = (
        written("tick", _LEFT - 5, cells.at(0, head)[1] + cells.height / 2 + 4, str(head), "end") for head in heads
    )
    return "".join([*below, *beside])


def _named(count: int, room: float, wanted: float) -> Iterable[int]:
    """Every so many, so that names do not touch."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if step * room >= wanted)
    return range(0, count, step)


def _scale(top: float, most: float, *, signed: bool) -> str:
    """Which colour is which number."""
    shades = range(-LEVELS if signed else 0, LEVELS + 1)
    wide = _WIDE / len(shades)
    parts = []
    for place, shade in enumerate(shades):
        kind = "z" if not shade else f"{'p' if shade > 0 else 'n'}{abs(shade)}"
        x = _LEFT + place * wide
        parts.append(f'<path class="{kind}" d="M{x:.1f} {top + 8:.1f}h{wide:.1f}v8h-{wide:.1f}z"/>')
        if shade in (-LEVELS, -LEVELS // 2, 0, LEVELS // 2, LEVELS):
            value = most * (abs(shade) / LEVELS) ** (1 / _POWER) * (1 if shade >= 0 else -1)
            name = axes.brief(float(f"{value:.2g}"))
            parts.append(written("tick", x + wide / 2, top + 28, name))
    parts.append(written("what", _LEFT + _WIDE + 12, top + 16, "layers →  heads ↓", "start"))
    return "".join(parts)
