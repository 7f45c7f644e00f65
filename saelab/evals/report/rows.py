"""A row of dots beside each name, all on one axis: many things, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saelab.evals.report import axes
from saelab.evals.report.axes import Axis
from saelab.evals.report.marks import LEAST, RIGHT, WIDTH, Point, inside, looks, picture, shape, written

_TOP, _FOOT = 4.0, 36.0
_LINE, _BETWEEN = 9.0, 9.0
_MOST_LETTERS, _LETTER = 26, 6.6
"""Of a name; names are written a little larger than ticks."""


@dataclass(frozen=True)
class Dot:
    """A value in a row: the number that decides its looks, and what is said where it is pointed at."""

    number: int
    point: Point
    said: str


@dataclass(frozen=True)
class _Scale:
    """The axis, and where it is drawn."""

    axis: Axis
    left: float

    def at(self, value: float) -> float:
        return self.left + self.axis.place(value) * (WIDTH - RIGHT - self.left)


def rows(
    described: str, found: Mapping[str, Sequence[Dot]], what: str, *, log: bool = False, mark: float | None = None
) -> str:
    """The picture; empty where there is nothing to draw.

    Args:
        described: for those who do not see it; what: the axis is of.
        found: dots by the name of their row.
        mark: a value that a line is drawn at.
    """
    dots = [dot for row in found.values() for dot in row]
    values = [value for dot in dots for value in (dot.point.y, *dot.point.ends)] + ([] if mark is None else [mark])
    values = [value for value in values if not log or value >= LEAST]
    if not dots or not values:
        return ""
    letters = min(_MOST_LETTERS, max(map(len, found)))
    scale = _Scale(axes.of_numbers(values, log=log, wanted=4), 14 + _LETTER * letters)
    parts, top, parted = [], _TOP, max(map(len, found.values())) > 2
    for name, row in found.items():
        height = _BETWEEN + _LINE * max(len(row), 1)
        parts.append(_row(scale, name, row, top + height / 2))
        top += height
        if parted:
            parts.append(f'<path class="grid" d="M0 {top:.1f}H{WIDTH - RIGHT}"/>')
    behind = [_grid(scale, what, top)]
    if mark is not None:
        behind.append(f'<path class="axis" d="M{scale.at(mark):.1f} {_TOP}V{top:.1f}"/>')
    return picture(described, top + _FOOT, "".join(behind + parts))


def _grid(scale: _Scale, what: str, bottom: float) -> str:
    parts = []
    for share, name in scale.axis.ticks:
        x = scale.left + share * (WIDTH - RIGHT - scale.left)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom:.1f}"/>')
        parts.append(written("tick", inside(x, name), bottom + 14, name))
    return "".join(parts) + written("what", WIDTH - RIGHT, bottom + 31, what, "end")


def _row(scale: _Scale, name: str, row: Sequence[Dot], middle: float) -> str:
    parts = [written("name", scale.left - 8, middle + 4, name, "end", most=_MOST_LETTERS)]
    for i, dot in enumerate(row):
        x, y = scale.at(dot.point.y), middle + _LINE * (i - (len(row) - 1) / 2)
        low, high = (scale.at(end) for end in dot.point.ends)
        whisker = "" if dot.point.low is None else f'<path class="whisker" d="M{low:.1f} {y:.1f}H{high:.1f}"/>'
        parts.append(f'<g class="{looks(dot.number)}">{whisker}{shape(dot.number, x, y, dot.said)}</g>')
    return "".join(parts)
