"""Small charts as HTML: bars in the page's colours, each with its value; the whole has a text for screen readers.

(The page's sanitiser drops SVG, so bars are boxes.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from saelab.features import render


def bars(
    title: str,
    heights: Sequence[float],
    edges: Sequence[str],
    values: Sequence[str],
    *,
    summary: str,
    marks: Sequence[int] = (),
) -> str:
    """A bar chart.

    Args:
        title, summary: text; the summary is read aloud in place of the bars.
        heights: in [0, 1]; values: what each bar says where it is pointed at; edges: along the axis, evenly spread.
        marks: bars in the colour of values below 0.
    """
    kinds = dict.fromkeys(marks, ' class="sl-negative"')
    drawn = "".join(
        f'<span title="{render.text(said)}"{kinds.get(i, "")}><i style="height:{100 * height:.1f}%"></i></span>'
        for i, (height, said) in enumerate(zip(heights, values, strict=True))
    )
    axis = "".join(f"<span>{render.text(edge)}</span>" for edge in edges)
    return (
        f'<figure class="sl-chart"><figcaption>{render.text(title)}</figcaption>'
        f'<div class="sl-bars" role="img" aria-label="{render.text(f"{title}: {summary}")}">{drawn}</div>'
        f'<div class="sl-axis" aria-hidden="true">{axis}</div></figure>'
    )


def histogram(title: str, counts: Sequence[int], low: float, high: float, *, unit: str = "latents") -> str:
    """Equal bins between two numbers; heights are logarithms, so that a bin of one is still seen."""
    n, most = len(counts), max(counts, default=0)
    edge = [low + (high - low) * i / n for i in range(n + 1)]
    said = [f"{_span(edge[i], edge[i + 1])}: {count:,} {unit}" for i, count in enumerate(counts)]
    heights = [math.log1p(count) / math.log1p(most) if most else 0.0 for count in counts]
    summary = f"{sum(counts):,} {unit}, most of them at {_span(*_peak(edge, counts))}" if most else "empty"
    below = [i for i in range(n) if edge[i + 1] <= 1e-9 * (high - low)] if low < 0 else []
    ends = [render.number(low), render.number(high)]
    return bars(f"{title} (log scale)", heights, ends, said, summary=summary, marks=below)


def _peak(edge: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    at = max(range(len(counts)), key=counts.__getitem__)
    return edge[at], edge[at + 1]


def _span(low: float, high: float) -> str:
    return f"{render.number(low)} to {render.number(high)}"
