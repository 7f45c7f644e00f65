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

CROWD = 26.0
"""Points nearer than this to their neighbour share a column."""
_OFFSETS = (9.0, 14.0, 20.0, 27.0, 36.0, 48.0, 62.0)
_OUTSIDE = 40.0
"""Leaving the panel costs as much as covering this many things."""
_TICKS = (34.0, 16.0)
"""What the tick labels of a window take, to its left and below."""
_SHARES = (0.58, 0.54, 0.5, 0.46, 0.42, 0.38, 0.34, 0.3, 0.26)
"""Of the panel, that a window may take across and up."""
_SHIFTS = (0.0, 5.0, -5.0, 10.0, -10.0, 16.0, -16.0, 24.0, -24.0)
"""Up and down, that a label on its own may give way."""


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


def largest_free(panel: Box, taken: Sequence[Box], corner: Point) -> Box | None:
    """The largest window of some sizes that covers nothing, as near to `corner` as there is one; tick labels have
    room beside it."""
    sizes = [(across * panel.width, up * panel.height) for across in _SHARES for up in _SHARES]
    for width, height in sorted(sizes, key=math.prod, reverse=True):
        for window in sorted(_windows(panel, width, height), key=lambda box: math.dist(corner, box.middle)):
            if not any(window.grown(3, 3).meets(box) for box in taken):
                return Box(window.left + _TICKS[0], window.bottom + _TICKS[1], window.right, window.top)
    return None


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


def arrange(labels: Sequence[Label], panel: Box, obstacles: Sequence[Box], near: float = CROWD) -> list[Place]:
    """A place for each label, in their order; those whose points are nearer than `near` across share a column."""
    taken = list(obstacles)
    places: dict[int, Place] = {}
    for column in _columns(labels, near):
        members = [labels[index] for index in column]
        best = min(_candidates(members, panel), key=lambda found: _cost(found, members, panel, taken))
        places |= dict(zip(column, best, strict=True))
        taken += [place.box for place in best]
    return [places[index] for index in range(len(labels))]


def _columns(labels: Sequence[Label], near: float) -> list[list[int]]:
    """Indices of labels that share a column; large columns first, since they are the hardest to place."""
    columns: list[list[int]] = []
    for side in (True, False):
        last = float("-inf")
        of_side = [index for index, label in enumerate(labels) if label.rightwards is side]
        for index in sorted(of_side, key=lambda index: labels[index].x):
            columns.append([]) if labels[index].x - last >= near else None
            columns[-1].append(index)
            last = labels[index].x
    return sorted(columns, key=len, reverse=True)


def _candidates(members: Sequence[Label], panel: Box) -> Iterator[list[Place]]:
    heights = _apart([label.y for label in members], 1.12 * max(label.height for label in members), panel)
    near, far = min(label.x for label in members), max(label.x for label in members)
    first = members[0].rightwards
    for rightwards, offset, shift in itertools.product(
        (first, not first), _OFFSETS, _SHIFTS if len(members) == 1 else (0.0,)
    ):
        edge = far + offset if rightwards else near - offset
        yield [_place(label, edge, y + shift, rightwards) for label, y in zip(members, heights, strict=True)]


def _place(label: Label, edge: float, height: float, rightwards: bool) -> Place:
    left = edge if rightwards else edge - label.width
    return Place(Box(left, height - label.height / 2, left + label.width, height + label.height / 2), rightwards)


def _cost(places: Sequence[Place], members: Sequence[Label], panel: Box, taken: Sequence[Box]) -> float:
    covered = sum(place.box.meets(box) for place in places for box in taken)
    outside = sum(not place.box.inside(panel) for place in places)
    reach = max(math.dist(place.anchor, (label.x, label.y)) for place, label in zip(places, members, strict=True))
    wrong_side = places[0].rightwards is not members[0].rightwards
    return covered + _OUTSIDE * outside + 0.01 * reach + 0.5 * wrong_side


def _apart(wanted: Sequence[float], gap: float, panel: Box) -> list[float]:
    """Heights as near to `wanted` as `gap` between neighbours allows (least squares), inside the panel."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    blocks: list[tuple[float, int]] = []  # mean of wanted - rank * gap, and how many: rising means need no more room
    for rank, index in enumerate(order):
        block = (wanted[index] - rank * gap, 1)
        while blocks and blocks[-1][0] >= block[0]:
            mean, count = blocks.pop()
            block = ((mean * count + block[0] * block[1]) / (count + block[1]), count + block[1])
        blocks.append(block)
    free = [mean for mean, count in blocks for _ in range(count)]
    room = panel.top - gap / 2 - (len(order) - 1) * gap
    heights = [0.0] * len(wanted)
    for rank, (index, mean) in enumerate(zip(order, free, strict=True)):
        heights[index] = max(panel.bottom + gap / 2, min(mean, room)) + rank * gap
    return heights
