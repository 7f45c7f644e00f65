"""Small charts as inline SVG that say in words what they show."""

from __future__ import annotations

from collections.abc import Sequence

from saelab.features.render import number, text

_WIDTH, _HEIGHT, _FOOT = 320, 96, 14


def bars(heights: Sequence[float], low: float, high: float, *, title: str) -> str:
    """Equal bins from `low` to `high` as bars, those below 0 in another hue.

    Args:
        title: what is counted; the tallest bar and the ends are said after it.
    """
    tallest, count = max(heights, default=0), max(len(heights), 1)
    width, room = _WIDTH / count, _HEIGHT - _FOOT - 2
    step = (high - low) / count
    parts = []
    for i, height in enumerate(heights):
        if height > 0:
            tall = max(room * height / tallest, 1.0)
            kind = "sl-bar-negative" if low + (i + 0.5) * step < 0 else "sl-bar"
            where = f'x="{i * width + 0.5:.1f}" y="{room - tall + 2:.1f}" width="{width - 1:.1f}" height="{tall:.1f}"'
            parts.append(f'<rect class="{kind}" {where}/>')
    said = text(f"{title}: from {number(low)} to {number(high)}")
    if tallest > 0:
        at = list(heights).index(tallest)
        said += f", tallest from {number(low + at * step)} to {number(low + (at + 1) * step)}"
    base = f'<path class="sl-axis" d="M0 {room + 2.5}H{_WIDTH}"/>'
    ends = (
        f'<text class="sl-end" x="0" y="{_HEIGHT - 2}">{number(low)}</text>'
        f'<text class="sl-end" x="{_WIDTH}" y="{_HEIGHT - 2}" text-anchor="end">{number(high)}</text>'
    )
    return (
        f'<svg class="sl-chart" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-label="{said}"><title>{said}</title>'
        f"{''.join(parts)}{base}{ends}</svg>"
    )


STYLE = """
.sl-chart { width: 100%; max-width: 26rem; height: auto; display: block; }
.sl-bar { fill: #f97316; }
.sl-bar-negative { fill: #3b82f6; }
.sl-axis { stroke: currentColor; stroke-opacity: .4; fill: none; }
.sl-end { fill: currentColor; font-size: 11px; }
"""
