"""The comparison as a picture: FVU and CE score against L0, each member labelled where it stands.

Members trained for one L0 stand in a crowd. Where their marks cover each other, a window beside the curve
shows the crowd enlarged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelab.evals.family.labels import Box, Label, Place, along, around, arrange, beside, crowd, free_window
from saelab.evals.family.table import FamilyTable, Row, Spread, at_l0
from saelab.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D")
"""Okabe and Ito's, which colour-blind eyes tell apart, without the yellow that vanishes on white."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_INK, _GRID, _FRAME = "#222222", "#e4e4e4", "#9a9a9a"
_L0_TICKS = tuple(2**power for power in range(16))
_TICKS = {
    "fvu": (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0),
    "ce_score": (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998),
}
_SIZE_INCHES, _DPI = (12.0, 6.0), 150
_MARK_POINTS, _LABEL_POINTS = 7.0, 9.5
_TICK_POINTS = 24.0
"""A tick of a window, with its label, takes as much."""
_LEAST = 1e-6
"""A perfect score still has a place on a logarithmic axis."""


@dataclass(frozen=True)
class Panel:
    """One of the two: a metric, and what is said of it.

    Attributes:
        lacking: drawn by 1 - value on a falling logarithmic axis, so that what is near 1 stays apart.
    """

    metric: str
    heading: str
    axis: str
    lacking: bool = False

    def height(self, value: float) -> float:
        """Where a value stands on the logarithmic axis; and its own inverse."""
        return max(1 - value if self.lacking else value, _LEAST)

    def values(self, row: Row) -> Spread:
        return row.values[self.metric]


PANELS = (
    Panel("fvu", "Reconstruction", "FVU on held-out documents (lower is better)"),
    Panel("ce_score", "Effect on the language model", "CE score, zero ablation (higher is better)", lacking=True),
)


def draw(table: FamilyTable, *paths: Path) -> bool:
    """Write the plot to each path, in the format of its ending; False, and nothing, where nothing is measured."""
    if not table.measured:
        return False
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "saelab", "font.size": 10, "axes.titlesize": 12, "axes.labelsize": 11}):
        picture = figure(table)
        for path in paths:
            kind = path.suffix.lstrip(".")
            with atomic_file(path) as temporary:
                picture.savefig(temporary, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else {})
    return True


def figure(table: FamilyTable) -> Figure:
    """The plot, for a notebook."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title = table.comparison.title
    picture = Figure(figsize=_SIZE_INCHES, dpi=72, facecolor="white")  # one dot is one point: see View
    FigureCanvasAgg(picture)
    axes = picture.subplots(1, len(PANELS))
    picture.subplots_adjust(left=0.06, right=0.99, bottom=0.1, top=0.86 if title else 0.94, wspace=0.17)
    picture.suptitle(title, x=0.06, y=0.97, ha="left", fontsize=14, color=_INK)
    for axis, panel in zip(axes, PANELS, strict=True):
        _draw(panel, axis, table)
    return picture


def _draw(panel: Panel, axis: Axes, table: FamilyTable) -> None:
    rows = [row for row in table.rows if {"l0", panel.metric} <= row.values.keys()]
    if not rows:
        axis.set_axis_off()
        return
    beside = set(table.comparison.beside.values()) - set(table.comparison.curve)
    scene = Scene(
        panel,
        [row for row in table.curve if row in rows],
        [row for row in rows if row.name in beside],
        _marks(table, rows),
        table.comparison.label,
    )
    view = View(axis, panel)
    _frame(view, rows)
    _draw_marks(view, scene)
    crowded = _crowded(view, scene)
    window = _enlarge(view, scene, crowded) if len(crowded) > 2 else None
    alone = [mark for mark in scene.marks if mark not in crowded] if window else scene.marks
    texts = [_write(view, mark.row.name, _LABEL_POINTS) for mark in alone]
    wanted = [_wanted(view, scene, mark, text) for mark, text in zip(alone, texts, strict=True)]
    line = [view.place(row) for row in scene.curve]
    if line:
        texts.append(_write(view, scene.label, 11.0, fontweight="bold"))
        wanted.append(Label(*line[-1], *_extent(texts[-1]), rightwards=True))
    obstacles = [around([view.place(row)], 5.0) for row in (*scene.members, *scene.companions)]
    obstacles += [*(around([place], 2.5) for place in along(line)), *([window] if window else [])]
    places = arrange(wanted, view.box.grown(-3, -3), obstacles)
    _put(view, texts, places)
    _lead(view, alone, places[: len(alone)])


@dataclass(frozen=True)
class Mark:
    """A member and its look."""

    row: Row
    colour: str
    marker: str


@dataclass(frozen=True)
class Scene:
    """What a panel shows: the curve in the order of L0, what is of its kind beyond it, and the other members."""

    panel: Panel
    curve: Sequence[Row]
    companions: Sequence[Row]
    marks: Sequence[Mark]
    label: str

    @property
    def members(self) -> list[Row]:
        return [mark.row for mark in self.marks]

    def better(self, row: Row) -> bool:
        """Whether a member beats the curve at its L0."""
        metric = self.panel.metric
        line = [{"l0": point.values["l0"].mean, metric: self.panel.values(point).mean} for point in self.curve]
        reference = at_l0(line, metric, row.values["l0"].mean)
        own = self.panel.height(self.panel.values(row).mean)
        return reference is not None and own < self.panel.height(reference)


@dataclass(frozen=True)
class View:
    """A pair of axes of a panel; places are in points of the page, which are the figure's dots."""

    axis: Axes
    panel: Panel

    def place(self, row: Row) -> tuple[float, float]:
        """Of a member's mean."""
        x, y = self.axis.transData.transform((row.values["l0"].mean, self.panel.height(self.panel.values(row).mean)))
        return float(x), float(y)

    def data(self, x: float, y: float) -> tuple[float, float]:
        """L0 and height at a place."""
        l0, height = self.axis.transData.inverted().transform((x, y))
        return float(l0), float(height)

    @property
    def box(self) -> Box:
        found = self.axis.get_window_extent()
        return Box(found.x0, found.y0, found.x1, found.y1)


def _marks(table: FamilyTable, rows: Sequence[Row]) -> list[Mark]:
    """A colour and a marker for each member beside the curve, the same in every panel; no pair twice among 56."""
    reference = {*table.comparison.curve, *table.comparison.beside.values()}
    others = [row for row in table.rows if row.name not in reference]
    return [
        Mark(row, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        for number, row in enumerate(others)
        if row in rows
    ]


# -- axes ---------------------------------------------------------------------------------------------


def _frame(view: View, rows: Sequence[Row]) -> None:
    """Scales, limits with room for labels, ticks, grid."""
    axis, panel = view.axis, view.panel
    l0 = [value for row in rows for value in row.values["l0"].values]
    heights = [panel.height(value) for row in rows for value in panel.values(row).values]
    _limit(view, (max(min(l0), 0.5) / 3.4, max(max(l0), 0.5) * 2.4), (min(heights) / 1.3, max(heights) * 1.3))
    _ticks(view, _L0_TICKS, _TICKS[panel.metric])
    axis.set_title(panel.heading, loc="left", color=_INK)
    axis.set_xlabel("L0: active latents per token", color=_INK)
    axis.set_ylabel(panel.axis, color=_INK)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _limit(view: View, l0: tuple[float, float], heights: tuple[float, float]) -> None:
    view.axis.set(xscale="log", yscale="log", xlim=l0, ylim=heights[::-1] if view.panel.lacking else heights)


def _ticks(view: View, l0: Iterable[float], values: Iterable[float]) -> None:
    """Those that lie inside the limits, written as plain numbers."""
    axis = view.axis
    left, right = axis.get_xlim()
    low, high = sorted(axis.get_ylim())
    across = [tick for tick in l0 if left <= tick <= right]
    up = {view.panel.height(tick): f"{tick:.6g}" for tick in values if low <= view.panel.height(tick) <= high}
    axis.set_xticks(across, [f"{tick:g}" for tick in across])
    axis.set_yticks(list(up), list(up.values()))
    axis.minorticks_off()
    axis.grid(color=_GRID, linewidth=0.7)
    axis.set_axisbelow(True)


# -- marks --------------------------------------------------------------------------------------------


def _draw_marks(view: View, scene: Scene) -> None:
    axis, panel = view.axis, view.panel
    if scene.curve:
        l0 = [row.values["l0"].mean for row in scene.curve]
        spreads = [panel.values(row) for row in scene.curve]
        low, high = ([panel.height(getattr(spread, end)) for spread in spreads] for end in ("low", "high"))
        axis.fill_between(l0, low, high, color=_INK, alpha=0.15, linewidth=0, zorder=2)
        heights = [panel.height(spread.mean) for spread in spreads]
        axis.plot(l0, heights, "-o", color=_INK, linewidth=1.6, markersize=5, zorder=3)
    for row in scene.companions:
        place = row.values["l0"].mean, panel.height(panel.values(row).mean)
        axis.plot(*place, "o", color=_INK, markerfacecolor="white", markersize=5, zorder=3)
    for mark in scene.marks:
        l0, value = mark.row.values["l0"], panel.values(mark.row)
        height = panel.height(value.mean)
        ends = sorted((panel.height(value.low), panel.height(value.high)))
        axis.errorbar(
            l0.mean,
            height,
            xerr=[[l0.mean - l0.low], [l0.high - l0.mean]],
            yerr=[[max(height - ends[0], 0)], [max(ends[1] - height, 0)]],
            fmt=mark.marker,
            color=mark.colour,
            markersize=_MARK_POINTS,
            markeredgecolor="white",
            markeredgewidth=0.7,
            elinewidth=1.4,
            zorder=5,
        )


# -- a crowd enlarged ---------------------------------------------------------------------------------


def _crowded(view: View, scene: Scene) -> list[Mark]:
    """The largest group of members whose marks cover each other."""
    return [scene.marks[number] for number in crowd([view.place(row) for row in scene.members], 1.3 * _MARK_POINTS)]


def _enlarge(view: View, scene: Scene, crowded: Sequence[Mark]) -> Box | None:
    """A window on `crowded` where it covers nothing; None where there is no room for one."""
    frame = view.box
    core = around([view.place(mark.row) for mark in crowded], 0.7 * _MARK_POINTS)
    curve = [around([place], 6.0) for place in along([view.place(row) for row in scene.curve])]
    marks = [around([view.place(row)], 8.0) for row in (*scene.members, *scene.companions)]
    marks += [_first_choice(view, scene, mark) for mark in scene.marks if mark not in crowded]
    better = (frame.left, frame.top if scene.panel.lacking else frame.bottom)  # the side where labels are few
    window = free_window(frame, [core.grown(core.width, 0), *curve, *marks], better)
    if window is None:
        return None
    texts = [_write(view, mark.row.name, 9.0) for mark in crowded]
    column = max(_extent(text)[0] for text in texts) + 8
    pane = Box(window.left, window.bottom, window.right - column, window.top)
    inset = View(view.axis.figure.add_axes(_shares(pane), zorder=6), scene.panel)
    part = core.grown(0.25 * core.width, 0.05 * core.height)
    (left, low), (right, high) = view.data(part.left, part.bottom), view.data(part.right, part.top)
    low, high = sorted((low, high))
    _limit(inset, (left, right), (low, high))
    across, up = (max(1, int(size / _TICK_POINTS)) for size in (pane.width, pane.height))
    least, largest = sorted(map(scene.panel.height, (low, high)))
    _ticks(inset, _plain(left, right, across), _plain(least, largest, up))
    inset.axis.tick_params(labelsize=8, color=_FRAME, labelcolor=_INK, length=2)
    inset.axis.spines[:].set_color(_FRAME)
    _draw_marks(inset, replace(scene, marks=crowded))
    places = beside([_wanted(inset, scene, mark, text) for mark, text in zip(crowded, texts, strict=True)], pane)
    _put(view, texts, places)
    _lead(inset, crowded, places)
    outline = [(left, low), (right, low), (right, high), (left, high), (left, low)]
    lead = [view.data(*part.nearest(pane.middle)), view.data(*pane.nearest(part.middle))]
    for line in (outline, lead):
        view.axis.plot(*zip(*line, strict=True), color=_FRAME, linewidth=0.9, zorder=6)
    return window


def _shares(box: Box) -> tuple[float, float, float, float]:
    """A box of the page in parts of the figure."""
    width, height = (72 * inches for inches in _SIZE_INCHES)
    return box.left / width, box.bottom / height, box.width / width, box.height / height


def _plain(low: float, high: float, most: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(min(most, 4)).tick_values(low, high)]


# -- labels -------------------------------------------------------------------------------------------


def _write(view: View, text: str, size: float, **style: Any) -> Text:
    """A text that waits for its place."""
    return view.axis.text(1, 1, text, color=_INK, fontsize=size, zorder=7, **style)


def _extent(text: Text) -> tuple[float, float]:
    """Width and height of a text, with a little room about it."""
    box = text.get_window_extent()
    return float(box.width) + 4, float(box.height)


def _wanted(view: View, scene: Scene, mark: Mark, text: Text) -> Label:
    """To the left for what beats the curve: it is empty there."""
    return Label(*view.place(mark.row), *_extent(text), rightwards=not scene.better(mark.row))


def _first_choice(view: View, scene: Scene, mark: Mark) -> Box:
    """Where a member's label would go first."""
    text = _write(view, mark.row.name, _LABEL_POINTS)
    wanted = _wanted(view, scene, mark, text)
    text.remove()
    return arrange([wanted], view.box, [])[0].box


def _put(view: View, texts: Sequence[Text], places: Sequence[Place]) -> None:
    for text, place in zip(texts, places, strict=True):
        text.set(position=view.data(*place.anchor), ha="left" if place.rightwards else "right", va="center")


def _lead(view: View, marks: Sequence[Mark], places: Sequence[Place]) -> None:
    """Lines from marks to their labels."""
    for mark, place in zip(marks, places, strict=True):
        ends = [view.data(*view.place(mark.row)), view.data(*place.anchor)]
        view.axis.plot(*zip(*ends, strict=True), color=mark.colour, linewidth=0.8, alpha=0.8, zorder=4, clip_on=False)
