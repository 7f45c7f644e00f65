"""Pictures of the reports as SVG that stands alone: what a notebook shows, keeps and exports.

They bring the rules of the report's sheets that they need, and a light ground of their own, whatever is around them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from saelab.circuits.report import page
from saelab.errors import SettingError
from saelab.evals.base import Chart
from saelab.evals.report import charts
from saelab.evals.report.marks import LETTER, WIDTH, swatch
from saelab.features.render import text
from saelab.files import write_text

_SCALE, _WIDEST = 1.35, 940
"""How much larger than on a report's page, whose charts are made for a phone; and no wider, in pixels."""
_MARGIN, _GAP, _TITLE, _KEY = 12.0, 28.0, 22.0, 17.0
_SWATCH = (22.0, 12.0)
_LETTERS = 46
"""Of a title, in one line."""
_SCOPE = ".sl-picture"
_OWN = f"""{_SCOPE} {{ font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
{_SCOPE} .sheet {{ fill: var(--sheet); }}
{_SCOPE} .plot .sl-title {{ font-size: 13px; font-weight: 600; fill: var(--ink); }}
"""


@dataclass(frozen=True)
class Picture:
    """A picture; a notebook shows it where a cell ends on it.

    Attributes:
        title: any text; body: SVG from (0, 0) to (`width`, `height`).
    """

    title: str
    body: str
    width: float
    height: float

    @property
    def svg(self) -> str:
        """The whole of it."""
        width, height = self.width + 2 * _MARGIN, self.height + 2 * _MARGIN
        shown = min(width * _SCALE, _WIDEST)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="sl-picture" role="img" width="{shown:.0f}" '
            f'height="{shown * height / width:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'aria-label="{text(self.title)}"><style>{"".join(_rules(self.body))}</style>'
            f'<rect class="sheet" width="{width:.0f}" height="{height:.0f}" rx="8"/>'
            f'<g transform="translate({_MARGIN:.0f} {_MARGIN:.0f})">{self.body}</g></svg>'
        )

    def save(self, path: Path | str) -> Path:
        """Write it as a file."""
        write_text(Path(path), self.svg)
        return Path(path)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<picture: {self.title}>"


def framed(title: str, drawn: str, looks: Mapping[str, int] | None = None) -> Picture:
    """Something that a report draws, below its title and above the names of what is in it.

    Args:
        drawn: SVG of `saelab.evals.report.marks.picture`, without text that is not escaped.
        looks: names and the numbers that decide their looks.
    """
    size = re.search(r'viewBox="0 0 \d+ (\d+)"', drawn)
    height = float(size[1]) if size else 0.0
    lines = textwrap.wrap(title, _LETTERS) or [""]
    top = _TITLE + 16 * (len(lines) - 1)
    named, below = _key(looks or {}, top + height)
    head = "".join(
        f'<text class="sl-title" x="0" y="{13 + 16 * i}">{text(line)}</text>' for i, line in enumerate(lines)
    )
    return Picture(title, f'<g class="plot">{head}</g>{_placed(drawn, 0.0, top, WIDTH, height)}{named}', WIDTH, below)


def chart(one: Chart, *, title: str | None = None, looks: Mapping[str, int] | None = None) -> Picture:
    """An evaluator's or an experiment's chart.

    Args:
        title: in place of the chart's; looks: numbers of series, which decide theirs.
    """
    known = looks or {name: number for number, name in enumerate(charts.points(one))}
    named = {name: known[name] for name in charts.points(one)}
    return framed(one.title if title is None else title, charts.draw(one, known), named if len(named) > 1 else None)


def beside(*pictures: Picture, columns: int | None = None) -> Picture:
    """Several as one, side by side, in lines of so many."""
    if not pictures:
        raise SettingError("pictures", "there is none")
    body, bottom, widest = [], 0.0, 0.0
    wide = columns or len(pictures)
    for line in (pictures[i : i + wide] for i in range(0, len(pictures), wide)):
        x, top = 0.0, bottom + (_GAP if bottom else 0.0)
        for one in line:
            body.append(f'<g transform="translate({x:.0f} {top:.0f})">{one.body}</g>')
            x += one.width + _GAP
        widest, bottom = max(widest, x - _GAP), top + max(one.height for one in line)
    return Picture("; ".join(one.title for one in pictures), "".join(body), widest, bottom)


def _placed(drawn: str, x: float, y: float, width: float, height: float) -> str:
    """An SVG inside of another one. Its class stands around it: sizes of a page's sheet do not hold there."""
    kind = re.search(r'<svg class="(\w+)" ', drawn)
    where = f'<svg x="{x:.0f}" y="{y:.1f}" width="{width:.0f}" height="{height:.0f}" '
    return f'<g class="{kind[1]}">{drawn.replace(kind[0], where, 1)}</g>' if kind else drawn


def _key(looks: Mapping[str, int], top: float) -> tuple[str, float]:
    """Names and their looks in as many lines as they take, and where that ends."""
    parts, x, y = [], 0.0, top + 4
    for name, number in looks.items():
        wide = _SWATCH[0] + 6 + LETTER * min(len(name), 50) + 14
        if x and x + wide > WIDTH:
            x, y = 0.0, y + _KEY
        shown = f'<text class="name" x="{x + _SWATCH[0] + 6:.0f}" y="{y + 10:.1f}">{text(name, 50)}</text>'
        parts.append(_placed(swatch(number), x, y, *_SWATCH) + f'<g class="plot">{shown}</g>')
        x += wide
    return "".join(parts), y + _KEY if parts else top


# -- the sheets ---------------------------------------------------------------------------------------


def _rules(body: str) -> Iterator[str]:
    """Of the reports' sheets what is for something in the picture, for this picture alone."""
    known = {name for names in re.findall(r'class="([^"]*)"', body) for name in names.split()}
    tags = set(re.findall(r"<([a-z]+)", body))
    yield _OWN
    for selector, declarations in _sheet():
        wanted = [one for one in selector.split(",") if _is_for(one.strip(), known, tags)]
        if wanted:
            scoped = ",".join(f"{_SCOPE} {one.strip()}".replace(f"{_SCOPE} :root", _SCOPE) for one in wanted)
            yield f"{scoped} {{{declarations}}}\n"


def _is_for(selector: str, known: set[str], tags: set[str]) -> bool:
    """Whether a selector may choose something: nothing stands around a picture, and nobody points at it."""
    if selector == ":root":
        return True
    classes, names = re.findall(r"\.([\w-]+)", selector), re.findall(r"(?:^|[\s>+~])([a-z]\w*)", selector)
    return not re.search(r"[:\[*]", selector) and known.issuperset(classes) and tags.issuperset(names)


@cache
def _sheet() -> list[tuple[str, str]]:
    """Rules of the sheets for light grounds, as selectors and declarations; those for some media only are left out."""
    css = re.sub(r"/\*.*?\*/", "", page.style(), flags=re.DOTALL)
    css = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", css)
    css = re.sub(r"light-dark\(([^,()]+),[^()]+\)", r"\1", css).replace("light dark", "light")
    return [(selector.strip(), rules.strip()) for selector, rules in re.findall(r"([^{}]+)\{([^{}]*)\}", css)]
