"""An evaluator's chart as inline SVG, in the page's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saelab.evals.base import Chart
from saelab.evals.report import axes
from saelab.evals.report.axes import Axis
from saelab.evals.report.marks import LEAST, LETTER, RIGHT, WIDTH, Point, inside, line, looks, picture, shape, written
from saelab.evals.report.rows import Dot, rows
from saelab.evals.report.words import said
from saelab.features.render import text

_HEIGHT, _TOP, _BOTTOM = 232, 24, 192
_MOST_DOTS, _MOST_OWN = 150, 40
"""With more points in all, or in one series, lines are drawn without dots."""
_LARGE, _MIDDLE, _SMALL, _CROWD = 4.4, 3.2, 2.2, 120
"""Sizes of dots: alone, along a line, and where there are many more than so many."""
_WIDEST = 44
"""A bar is not wider."""
_MOST_AREAS, _MOST_INTERVALS = 3, 8
"""With more series that have any, intervals are thin lines instead of areas; with still more, there are none."""
_TOLD = 6

Series = Mapping[str, Sequence[Point]]


def draw(chart: Chart, numbers: Mapping[str, int] | None = None) -> str:
    """The picture; empty where there is nothing to draw.

    Args:
        numbers: of series, which decide their looks (none: as they come).
    """
    series = points(chart)
    if not series:
        return ""
    numbers = numbers or {name: i for i, name in enumerate(series)}
    described = _described(chart, series)
    if chart.kind == "bars" and (len(series) > 1 or not are_bins(chart)):
        return rows(described, _by_name(series, numbers), chart.y, log=chart.log_y)
    frame = _frame(chart, series)
    parts = [_grid(frame, chart)]
    for name, found in series.items():
        if chart.kind == "bars":
            drawn = "".join(_bar(frame, name, point) for point in found)
        else:
            drawn = _marks(frame, name, found, numbers[name], joined=chart.kind == "line", among=series)
        parts.append(f'<g class="{looks(numbers[name])}">{drawn}</g>')
    return picture(described, _HEIGHT, "".join(parts))


def points(chart: Chart) -> dict[str, list[Point]]:
    """A chart's points by series, without those that a logarithmic axis has no place for."""

    def fits(point: Point) -> bool:
        x_fits = isinstance(point.x, str) or not chart.log_x or point.x >= LEAST
        return x_fits and (not chart.log_y or point.y >= LEAST)

    found = {name: [_point(one) for one in series] for name, series in chart.series.items()}
    kept = {name: [point for point in series if fits(point)] for name, series in found.items()}
    return {name: series for name, series in kept.items() if series}


def _point(values: Sequence[float | str]) -> Point:
    x, *numbers = values
    return Point(x, *map(float, numbers))


def _described(chart: Chart, series: Series) -> str:
    """What is to be seen, for those who do not see it."""
    told = []
    for name, found in list(series.items())[:_TOLD]:
        heights = [point.y for point in found]
        span = f"{said(min(heights))} to {said(max(heights))}" if len(found) > 1 else said(heights[0])
        told.append(f"{name} {span}")
    more = [f"and {len(series) - _TOLD} more"] if len(series) > _TOLD else []
    return f"{chart.title}: {chart.y} by {chart.x}. {'; '.join(told + more)}."


def are_bins(chart: Chart) -> bool:
    """Whether bars stand for parts of a range, of which some may go unnamed: most names hold a digit."""
    names = [_name(point.x) for found in points(chart).values() for point in found]
    return sum(any(letter.isdigit() for letter in name) for name in names) > len(names) / 2


def _by_name(series: Series, numbers: Mapping[str, int]) -> dict[str, list[Dot]]:
    found: dict[str, list[Dot]] = {}
    for name, along in series.items():
        for point in along:
            found.setdefault(_name(point.x), []).append(Dot(numbers[name], point, f"{name}, {point.said()}"))
    return found


def _name(x: float | str) -> str:
    return x if isinstance(x, str) else axes.brief(x)


# -- frame --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """The rectangle inside the axes, from `_TOP` to `_BOTTOM`."""

    x: Axis
    y: Axis
    left: float

    @property
    def width(self) -> float:
        return WIDTH - RIGHT - self.left

    def place(self, x: float | str, y: float) -> tuple[float, float]:
        across = self.x.place(_name(x) if self.x.names else x)
        return self.left + across * self.width, _BOTTOM - self.y.place(y) * (_BOTTOM - _TOP)


def _frame(chart: Chart, series: Series) -> _Frame:
    every = [point for found in series.values() for point in found]
    heights = [end for point in every for end in (point.y, *point.ends) if not chart.log_y or end >= LEAST]
    y = axes.of_numbers(heights, log=chart.log_y, from_zero=chart.kind == "bars" and not chart.log_y)
    left = 8 + LETTER * max((len(name) for _, name in y.ticks), default=1)
    if chart.kind == "bars" or any(isinstance(point.x, str) for point in every):
        names = [_name(point.x) for point in every]
        room = (WIDTH - left) / (LETTER * max(map(len, names)) + 6)
        return _Frame(axes.of_names(names, most=max(2, int(room))), y, left)
    return _Frame(axes.of_numbers([float(point.x) for point in every], log=chart.log_x, exact=True), y, left)


def _grid(frame: _Frame, chart: Chart) -> str:
    """Lines across, the names of ticks, and what the axes are."""
    parts = []
    for share, name in frame.y.ticks:
        y = _BOTTOM - share * (_BOTTOM - _TOP)
        parts.append(f'<path class="grid" d="M{frame.left:.1f} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(written("tick", frame.left - 5, y + 4, name, "end"))
    for share, name in frame.x.ticks:
        x = frame.left + share * frame.width
        parts.append(f'<path class="axis" d="M{x:.1f} {_BOTTOM}v4"/>')
        parts.append(written("tick", inside(x, name), _BOTTOM + 16, name))
    parts.append(f'<path class="axis" d="M{frame.left:.1f} {_BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(written("what", 0, 11, chart.y, "start"))
    parts.append(written("what", WIDTH - RIGHT, _HEIGHT - 6, chart.x, "end"))
    return "".join(parts)


# -- marks --------------------------------------------------------------------------------------------


def _marks(frame: _Frame, name: str, found: Sequence[Point], number: int, *, joined: bool, among: Series) -> str:
    """A series' intervals, line and shapes; fewer of them where there is much to draw."""
    along = found if frame.x.names else sorted(found, key=lambda point: float(point.x))
    places = [frame.place(point.x, point.y) for point in along]
    joined = joined and len(places) > 1
    many = sum(map(len, among.values()))
    dotted = not joined or (many <= _MOST_DOTS and len(found) <= _MOST_OWN)
    between = sum(any(point.low is not None for point in series) for series in among.values())
    parts = []
    if not joined or between <= _MOST_INTERVALS:
        parts.append(_intervals(frame, along, area=joined and between <= _MOST_AREAS))
    if joined:
        last = f"<title>{text(f'{name}, at last {said(along[-1].y)}')}</title>"
        parts.append(f'<path class="line" d="{line(places)}">{last}</path>')
    if dotted:
        size = _MIDDLE if joined else _LARGE if many <= _CROWD else _SMALL
        marks = zip(places, along, strict=True)
        parts += [shape(number, x, y, f"{name}, {point.said()}", size) for (x, y), point in marks]
    return "".join(parts)


def _intervals(frame: _Frame, along: Sequence[Point], *, area: bool) -> str:
    known = [point for point in along if point.low is not None]
    low = [frame.place(point.x, point.ends[0]) for point in known]
    high = [frame.place(point.x, point.ends[1]) for point in known]
    if area and len(known) > 1:
        return f'<path class="band" d="{line([*high, *reversed(low)])}z"/>'
    drawn = "".join(line(ends) for ends in zip(low, high, strict=True))
    return f'<path class="whisker" d="{drawn}"/>' if drawn else ""


def _bar(frame: _Frame, name: str, point: Point) -> str:
    room = frame.width / len(frame.x.names)
    width = min(room - min(3.0, room / 4), _WIDEST)
    middle, y = frame.place(point.x, point.y)
    zero = frame.place(point.x, max(frame.y.low, 0.0))[1]
    tall = max(abs(zero - y), 1.0) if point.y else 0.0  # a bar of one in a thousand is still seen
    top = zero - tall if y <= zero else zero
    return (
        f'<rect class="bar" x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{tall:.1f}">'
        f"<title>{text(f'{name}, {point.said()}')}</title></rect>{_intervals(frame, [point], area=False)}"
    )
