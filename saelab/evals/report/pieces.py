"""What the page is put together from: sections, cards, figures, tables, notes. All return HTML with text escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saelab.evals.base import Chart, Table
from saelab.evals.report import charts
from saelab.evals.report.marks import swatch
from saelab.evals.report.measured import Cell
from saelab.evals.report.words import said
from saelab.features.render import text

_ROWS = 600
"""More rows of a table are left out, and it says so."""


@dataclass(frozen=True)
class Section:
    """A part of the page, and its place in the contents.

    Attributes:
        name: for links; title: any text; body: HTML.
    """

    name: str
    title: str
    body: str


def section(part: Section) -> str:
    title = f'<h2 id="{part.name}-title">{text(part.title)}</h2>'
    return f'<section id="{part.name}" aria-labelledby="{part.name}-title">{title}{part.body}</section>\n'


def contents(parts: Sequence[Section]) -> str:
    """Links to the sections."""
    entries = "".join(f'<li><a href="#{part.name}">{text(part.title)}</a></li>' for part in parts)
    return f'<nav aria-label="Contents"><ul>{entries}</ul></nav>'


@dataclass(frozen=True)
class Card:
    """A headline number: what it is called, what it came to in which unit, and in a sentence what that is. Any text."""

    title: str
    value: str
    unit: str = ""
    between: str = ""
    meaning: str = ""
    counted: str = ""


def cards(found: Sequence[Card]) -> str:
    return f'<ul class="cards">{"".join(map(_card, found))}</ul>' if found else ""


def _card(card: Card) -> str:
    between = f'<p class="between">95 %: {text(card.between)}</p>' if card.between else ""
    counted = f'<p class="dim">{text(card.counted)}</p>' if card.counted else ""
    return (
        f'<li><h3>{text(card.title)}</h3><p class="value">{text(card.value)}<small> {text(card.unit)}</small></p>'
        f'{between}<p class="meaning">{text(card.meaning)}</p>{counted}</li>'
    )


def note(said: str, command: str = "") -> str:
    """What is missing, and the command that makes it."""
    how = f"<p><code>{text(command)}</code></p>" if command else ""
    return f'<div class="note"><p>{text(said)}</p>{how}</div>'


def paragraph(said: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f"<p{named}>{text(said)}</p>" if said else ""


def details(summary: str, body: str) -> str:
    """Closed until it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>" if body else ""


# -- figures ------------------------------------------------------------------------------------------


def gallery(found: Sequence[str], *, pairs: bool = True) -> str:
    """Figures beside each other: as many as there is room for, or two and larger where that leaves none alone."""
    kind = "gallery two" if pairs and len(found) in (2, 4) else "gallery"
    return f'<div class="{kind}">{"".join(found)}</div>' if any(found) else ""


def figure(chart: Chart, numbers: Mapping[str, int] | None = None, *, key: bool = True, values: bool = True) -> str:
    """A chart with its title, caption and legend.

    Args:
        numbers: of series, which decide their looks.
        key: with a legend, where there are several series; values: with the numbers, to be unfolded.
    """
    drawn = charts.draw(chart, numbers)
    if not drawn:
        return framed(chart.title, chart.caption, '<p class="dim">Nothing to draw.</p>')
    known = numbers or {name: number for number, name in enumerate(charts.points(chart))}
    shown = legend({name: known[name] for name in charts.points(chart)}) if key and len(chart.series) > 1 else ""
    return framed(chart.title, chart.caption, drawn + shown + (details("Numbers", _values(chart)) if values else ""))


def framed(title: str, caption: str, body: str) -> str:
    """Anything drawn, with a title and a caption."""
    under = f"<p>{text(caption)}</p>" if caption else ""
    return f"<figure><figcaption><h3>{text(title)}</h3>{under}</figcaption>{body}</figure>"


def legend(numbers: Mapping[str, int]) -> str:
    """Names of series and their looks."""
    entries = (f'<li class="k{n}">{swatch(n)}<bdi>{text(name, 80)}</bdi></li>' for name, n in numbers.items())
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _values(chart: Chart) -> str:
    """A chart's numbers: the text of the picture."""
    ends = any(len(point) > 2 for series in chart.series.values() for point in series)
    columns = ["series", chart.x or "x", chart.y or "y", *(["low", "high"] if ends else [])]
    found: list[list[Cell]] = [[name, *point] for name, series in chart.series.items() for point in series]
    rows = [row + [None] * (len(columns) - len(row)) for row in found]
    if len(chart.series) == 1:
        columns, rows = columns[1:], [row[1:] for row in rows]
    return grid(Table("", columns, rows), label=f"Numbers of {chart.title}")


# -- tables -------------------------------------------------------------------------------------------


def table(found: Table) -> str:
    """A table with its title and caption."""
    under = f"<p>{text(found.caption)}</p>" if found.caption else ""
    return f'<div class="table"><h3>{text(found.title)}</h3>{under}{grid(found, label=found.title)}</div>'


def grid(found: Table, *, label: str) -> str:
    """The table itself, in a box that scrolls where it is too wide."""
    right = [_is_number([row[i] for row in found.rows]) for i in range(len(found.columns))]
    head = "".join(f'<th scope="col"{_side(right[i])}>{text(column)}</th>' for i, column in enumerate(found.columns))
    body = "".join(f"<tr>{_cells(row, right)}</tr>" for row in found.rows[:_ROWS])
    left_out = len(found.rows) - _ROWS
    more = paragraph(f"{left_out:,} more rows are in eval.json.", "dim") if left_out > 0 else ""
    return boxed(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", label) + more


def boxed(body: str, label: str) -> str:
    """Something wide, in a box that scrolls, by keys too."""
    return f'<div class="box" role="region" tabindex="0" aria-label="{text(label, 200)}">{body}</div>'


def _cells(row: Sequence[Cell], right: Sequence[bool]) -> str:
    first, *others = row
    tag = 'th scope="row"' if isinstance(first, str) else "td"
    head = f"<{tag}{_side(right[0])}>{_cell(first)}</{tag[:2]}>"
    return head + "".join(f"<td{_side(right[i])}>{_cell(cell)}</td>" for i, cell in enumerate(others, 1))


def _cell(cell: Cell) -> str:
    return f"<bdi>{text(cell)}</bdi>" if isinstance(cell, str) else text(said(cell))


def _is_number(cells: Sequence[Cell]) -> bool:
    """Whether a column holds numbers, or texts that begin like one: `0.07 ± 0.01`, but not a list: `0.07; 0.01`."""
    return all(not isinstance(cell, str) or re.match(r"[-−~±×]? ?[\d.][^;]*$|[-–]?$", cell) for cell in cells)


def _side(right: bool) -> str:
    return ' class="n"' if right else ""
