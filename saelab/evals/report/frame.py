"""The document around any report: what is read first, the contents, the sections; without scripts or requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from saelab import __version__
from saelab.evals.report.marks import COLOURS, NUMBERS
from saelab.evals.report.pieces import Section, contents, section
from saelab.features import charts, document, render


def frame(
    title: str, header: str, parts: Sequence[Section], *, above: str = "", footer: str = "", styles: Sequence[str] = ()
) -> str:
    """A whole document.

    Args:
        title: any text; header: HTML.
        above: HTML before the sections; footer: any text, behind the version; styles: CSS besides the report's own.
    """
    body = (
        f"<header>{header}</header>\n"
        f'<div class="columns">{contents(parts)}<main>{above}{"".join(map(section, parts))}</main></div>\n'
        f"<footer>saelab {__version__}. {render.text(footer)}</footer>"
    )
    return document.document(title, body, style(), render.STYLE, charts.STYLE, *styles)


@cache
def style() -> str:
    """The sheet, and what is generated: colours by number, and what pointing at one of many dims."""
    sheet = files("saelab.evals.report").joinpath("style.css").read_text(encoding="utf-8")
    colours = "".join(f".c{i} {{ --c: var(--c{i}); }}\n" for i in range(COLOURS))
    dimmed = "".join(
        f"figure:has(.k{i}:hover) .s:not(.k{i}), main:has(.key .k{i}:hover) .plot .s:not(.k{i}) {{ opacity: .13; }}\n"
        for i in range(NUMBERS)
    )
    return sheet + colours + dimmed
