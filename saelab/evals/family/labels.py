"""Labels beside the points of a plot: in columns, where they cover nothing.

Everything is in points of the page. Points that crowd at one abscissa get their labels in a column to one
side, in the order of the points, at least a line apart; each column tries places further and further out,
on both sides, and takes the one that covers least.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_CROWD = 26.0
"""Points nearer than this to their neighbour share a column."""
_OFFSETS = (9.0, 14.0, 20.0, 27.0, 36.0, 48.0, 62.0)
_LINE = 1.12
"""Lines of a column stand this many heights apart."""
_OUTSIDE = 40.0
"""Leaving the panel costs as much as covering this many things."""
_TICKS = (34.0, 16.0)
"""What the tick labels of a window take, to its left and below."""
_ACROSS, _UP = (0.62, 0.58, 0.54, 0.5, 0.46, 0.42, 0.38), (0.48, 0.44, 0.4, 0.36, 0.32)
"""Shares of the panel that a window may take."""


@dataclass(frozen=True)
class Box:
    """A rectangle of the page."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.top - self.bottom

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The place in the box that is nearest to a point."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.bottom), self.top)

    def grown(self, across: float, up: float) -> Box:
        """Larger on each side."""
        return Box(self.left - across, self.bottom - up, self.right + across, self.top + up)

    def meets(self, other: Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top

    def inside(self, other: Box) -> bool:
        across = other.left <= self.left and self.right <= other.right
        return across and other.bottom <= self.bottom and self.top <= other.top


Point = tuple[float, float]


def around(points: Sequence[Point], margin: float) -> Box:
    """The box about some points."""
    across, up = zip(*points, strict=True)
    return Box(min(across), min(up), max(across), max(up)).grown(margin, margin)


def along(line: Sequence[Point], steps: int = 24) -> list[Point]:
    """Points along a line of straight pieces, near enough to each other to stand for it."""
    return [
        (x + (to_x - x) * step / steps, y + (to_y - y) * step / steps)
        for (x, y), (to_x, to_y) in itertools.pairwise(line)
        for step in range(steps + 1)
    ]


def crowd(points: Sequence[Point], near: float) -> list[int]:
    """Indices of the largest set of points in which one leads to the next over less than `near`."""
    left, largest = set(range(len(points))), []
    while left:
        group = [left.pop()]
        for index in group:  # grows while it is gone through
            found = [other for other in sorted(left) if math.dist(points[index], points[other]) < near]
            group += found
            left -= set(found)
        largest = max(largest, group, key=len)
    return sorted(largest)


def free_window(panel: Box, taken: Sequence[Box], corner: Point) -> Box | None:
    """A window that covers nothing: large, and near to `corner`; tick labels have room beside it. None where only
    small ones are free."""
    best: tuple[float, Box] | None = None
    for across, up in itertools.product(_ACROSS, _UP):
        for window in _windows(panel, across * panel.width, up * panel.height):
            away = math.dist(corner, window.middle) / math.hypot(panel.width, panel.height)
            worth = across * up**0.6 - 0.25 * away  # labels are wide and low
            if (best is None or worth > best[0]) and not any(window.grown(3, 3).meets(box) for box in taken):
                best = worth, window
    if best is None:
        return None
    window = best[1]
    return Box(window.left + _TICKS[0], window.bottom + _TICKS[1], window.right, window.top)


def _windows(panel: Box, width: float, height: float, steps: int = 10) -> Iterator[Box]:
    inside = panel.grown(-6, -6)
    for across, up in itertools.product(range(steps + 1), repeat=2):
        left = inside.left + across / steps * (inside.width - width)
        bottom = inside.bottom + up / steps * (inside.height - height)
        yield Box(left, bottom, left + width, bottom + height)


@dataclass(frozen=True)
class Label:
    """What is to be placed.

    Attributes:
        x, y: the point it belongs to.
        width, height: of its text.
        rightwards: the side that is tried first.
    """

    x: float
    y: float
    width: float
    height: float
    rightwards: bool


@dataclass(frozen=True)
class Place:
    """Where a label went: its box, and whether that is right of its point."""

    box: Box
    rightwards: bool

    @property
    def anchor(self) -> tuple[float, float]:
        """Where a line from the point meets the label."""
        return (self.box.left if self.rightwards else self.box.right), (self.box.bottom + self.box.top) / 2


def beside(labels: Sequence[Label], panel: Box) -> list[Place]:
    """A column right of a panel, in the order of the points' heights."""
    return [_place(label, panel.right + 8, y, True) for label, y in zip(labels, _apart(labels, panel), strict=True)]


def arrange(labels: Sequence[Label], panel: Box, obstacles: Sequence[Box]) -> list[Place]:
    """A place for each label, in their order."""
    taken = list(obstacles)
    places: dict[int, Place] = {}
    for column in _columns(labels):
        members = [labels[index] for index in column]
        best = min(_candidates(members, panel), key=lambda found: _cost(found, members, panel, taken))
        places |= dict(zip(column, best, strict=True))
        taken += [place.box for place in best]
    return [places[index] for index in range(len(labels))]


def _columns(labels: Sequence[Label]) -> list[list[int]]:
    """Indices of labels that share a column; large columns first, since they are the hardest to place."""
    columns: list[list[int]] = []
    for side in (True, False):
        last = float("-inf")
        of_side = [index for index, label in enumerate(labels) if label.rightwards is side]
        for index in sorted(of_side, key=lambda index: labels[index].x):
            if labels[index].x - last > _CROWD:
                columns.append([])
            columns[-1].append(index)
            last = labels[index].x
    return sorted(columns, key=len, reverse=True)


def _candidates(members: Sequence[Label], panel: Box) -> Iterator[list[Place]]:
    heights = _apart(members, panel)
    near, far = min(label.x for label in members), max(label.x for label in members)
    first = members[0].rightwards
    for rightwards, offset in itertools.product((first, not first), _OFFSETS):
        edge = far + offset if rightwards else near - offset
        yield [_place(label, edge, y, rightwards) for label, y in zip(members, heights, strict=True)]


def _place(label: Label, edge: float, height: float, rightwards: bool) -> Place:
    left = edge if rightwards else edge - label.width
    return Place(Box(left, height - label.height / 2, left + label.width, height + label.height / 2), rightwards)


def _cost(places: Sequence[Place], members: Sequence[Label], panel: Box, taken: Sequence[Box]) -> float:
    covered = sum(place.box.meets(box) for place in places for box in taken)
    outside = sum(not place.box.inside(panel) for place in places)
    reach = max(math.dist(place.anchor, (label.x, label.y)) for place, label in zip(places, members, strict=True))
    wrong_side = places[0].rightwards is not members[0].rightwards
    return covered + _OUTSIDE * outside + 0.01 * reach + 0.5 * wrong_side


def _apart(labels: Sequence[Label], panel: Box) -> list[float]:
    """Heights as near to the points' as lines of text allow (least squares), inside the panel."""
    gap = _LINE * max((label.height for label in labels), default=0.0)
    order = sorted(range(len(labels)), key=lambda index: labels[index].y)
    blocks: list[tuple[float, int]] = []  # labels that touch: the mean of their heights less rank * gap; how many
    for rank, index in enumerate(order):
        mean, count = labels[index].y - rank * gap, 1
        while blocks and blocks[-1][0] >= mean:
            below, many = blocks.pop()
            mean, count = (below * many + mean * count) / (many + count), many + count
        blocks.append((mean, count))
    free = [mean for mean, count in blocks for _ in range(count)]
    top, bottom = panel.top - gap / 2 - (len(order) - 1) * gap, panel.bottom + gap / 2
    heights = {index: max(bottom, min(free[rank], top)) + rank * gap for rank, index in enumerate(order)}
    return [heights[index] for index in range(len(labels))]
