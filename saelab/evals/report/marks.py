"""What charts are made of: points, shapes and colours by number, and the picture around them.

Marks carry a `<title>`, which a browser shows where they are pointed at. Everything is drawn for a width of 360,
which is a phone's, so that text stays readable there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saelab.evals.report.words import said
from saelab.features.render import text

WIDTH, RIGHT = 360, 10
LETTER = 6.3
"""Width of a letter, about."""
LEAST = 1e-30
"""Smaller numbers are 0 to a logarithmic axis."""
COLOURS, SHAPES, NUMBERS = 9, ("circle", "square", "triangle", "diamond", "down"), 45
"""Colours and shapes have no factor in common, so that so many series look different."""


@dataclass(frozen=True)
class Point:
    """Where a mark stands; the interval's ends where there is one."""

    x: float | str
    y: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; the value itself where there is none."""
        return (self.y if self.low is None else self.low, self.y if self.high is None else self.high)

    def said(self) -> str:
        """`16: 0.21 (0.2 to 0.22)`."""
        between = "" if self.low is None else f" ({said(self.ends[0])} to {said(self.ends[1])})"
        return f"{self.x if isinstance(self.x, str) else said(self.x)}: {said(self.y)}{between}"


def looks(number: int) -> str:
    """The classes that give a series its colour, and by which it is told apart from others."""
    dashes = " dash" if number // COLOURS % 2 else ""
    return f"s k{number % NUMBERS} c{number % COLOURS}{dashes}"


def shape(number: int, x: float, y: float, title: str = "", size: float = 4.0) -> str:
    """The mark of a series, at a place."""
    inner = f"<title>{text(title)}</title>" if title else ""
    kind, a = SHAPES[number % len(SHAPES)], size
    if kind == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{a:.1f}">{inner}</circle>'
    outlines = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.2), (1.15, 0.8), (-1.15, 0.8)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "down": ((0, 1.2), (1.15, -0.8), (-1.15, -0.8)),
    }
    return f'<path class="mark" d="{line((x + a * u, y + a * v) for u, v in outlines[kind])}z">{inner}</path>'


def line(places: Iterable[tuple[float, float]]) -> str:
    """The `d` of a path through places."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def swatch(number: int) -> str:
    """A series' look in a legend."""
    return (
        f'<svg class="swatch" viewBox="0 0 22 12" aria-hidden="true"><g class="{looks(number)}">'
        f'<path class="line" d="M0 6H22"/>{shape(number, 11, 6)}</g></svg>'
    )


def picture(described: str, height: float, body: str) -> str:
    """A chart; `described` is for those who do not see it."""
    label = text(described)
    return f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {height:.0f}" aria-label="{label}">{body}</svg>'


def written(kind: str, x: float, y: float, name: str, anchor: str = "middle", *, most: int = 64) -> str:
    """Text in a picture; what is too long is cut, and said in full where it is pointed at."""
    whole = name if len(name) <= most else f"{name[: most - 1]}…"
    hover = "" if whole == name else f"<title>{text(name)}</title>"
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(whole)}{hover}</text>'


def inside(x: float, name: str) -> float:
    """Where the middle of a name can stand that is meant for `x`."""
    half = LETTER * len(name) / 2
    return min(max(x, half), WIDTH - half)
