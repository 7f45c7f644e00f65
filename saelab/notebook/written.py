"""Tables and other HTML in a notebook: text escaped, in the notebook's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from saelab.evals.base import Table
from saelab.evals.report.measured import Cell
from saelab.evals.report.pieces import grid
from saelab.evals.report.words import said
from saelab.features.render import shown


@dataclass(frozen=True)
class Written:
    """HTML that a notebook shows where a cell ends on it.

    Attributes:
        html: without text that is not escaped; plain: the same for a terminal.
    """

    html: str
    plain: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.plain


def table(columns: Sequence[str] | Table, rows: Sequence[Sequence[Cell]] = ()) -> Written:
    """A table: of columns and rows, or one that a report has. Any text; None is a dash."""
    found = columns if isinstance(columns, Table) else Table("", columns, rows)
    body = grid(found, label=found.title or found.columns[0])
    return Written(f'<div class="sl-table"><style>{style()}</style>{body}</div>', _plain(found))


@cache
def style() -> str:
    return files("saelab.notebook").joinpath("style.css").read_text(encoding="utf-8")


def _plain(found: Table) -> str:
    lines = [[*map(_cell, found.columns)], *([_cell(cell) for cell in row] for row in found.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(found.columns))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cell(cell: Cell) -> str:
    return shown(cell) if isinstance(cell, str) else said(cell)
