"""The document: what is read first, the contents, the sections; without scripts or requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from saelab import __version__
from saelab.evals.report import many, one
from saelab.evals.report.many import Comparison
from saelab.evals.report.marks import COLOURS, NUMBERS
from saelab.evals.report.pieces import Section, contents, section
from saelab.evals.report.run import Run
from saelab.features import charts, document, render


def of_run(run: Run) -> str:
    """The page of one run."""
    return _page(run.name, one.header(run), one.sections(run))


def of_comparison(found: Comparison) -> str:
    """The page of several runs."""
    return _page(found.name, many.header(found), many.sections(found), many.key(found))


def _page(title: str, header: str, parts: Sequence[Section], above: str = "") -> str:
    body = (
        f"<header>{header}</header>\n"
        f'<div class="columns">{contents(parts)}<main>{above}{"".join(map(section, parts))}</main></div>\n'
        f"<footer>saelab {__version__}. Intervals are 95 % ones; ~ marks what training found on few tokens.</footer>"
    )
    return document.document(f"{title} · saelab report", body, _style(), render.STYLE, charts.STYLE)


@cache
def _style() -> str:
    """The sheet, and what is generated: colours by number, and what pointing at one of many dims."""
    sheet = files("saelab.evals.report").joinpath("style.css").read_text(encoding="utf-8")
    colours = "".join(f".c{i} {{ --c: var(--c{i}); }}\n" for i in range(COLOURS))
    dimmed = "".join(
        f"figure:has(.k{i}:hover) .s:not(.k{i}), main:has(.key .k{i}:hover) .plot .s:not(.k{i}) {{ opacity: .13; }}\n"
        for i in range(NUMBERS)
    )
    return sheet + colours + dimmed
