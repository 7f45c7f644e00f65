"""What evaluators found, from `eval.json`: whatever is not as it should be is left out, never drawn wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from saelab.evals.base import Chart, ChartKind, Table
from saelab.evals.records import finite, finite_numbers

Cell = str | float | None
_TEXT = 2_000
_ROWS = 2_000
_POINTS = 2_000
_LARGEST = 1e30
"""Larger numbers are not drawn: axes reckon with differences and ratios."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluator's entry; the fields are `Result`'s.

    Attributes:
        settings: that it ran with.
        seconds: that it took.
    """

    name: str
    metrics: Mapping[str, float]
    n_tokens: int = 0
    n_examples: int = 0
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    meaning: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    not_measurable: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def counted(self) -> str:
        """What is behind its numbers, in words."""
        said = [f"{n:,} {what}" for n, what in ((self.n_tokens, "tokens"), (self.n_examples, "examples")) if n]
        return " and ".join(said)


def read_evaluation(name: str, entry: Mapping[str, Any]) -> Evaluation:
    """An entry of `eval.json`'s `evaluations`."""
    return Evaluation(
        name=name,
        metrics=finite_numbers(_mapping(entry.get("metrics"))),
        n_tokens=int(finite(entry.get("n_tokens")) or 0),
        n_examples=int(finite(entry.get("n_examples")) or 0),
        intervals={key: pair for key, value in _mapping(entry.get("intervals")).items() if (pair := _pair(value))},
        meaning=_texts(entry.get("meaning")),
        tables=[table for document in _list(entry.get("tables")) if (table := _table(_mapping(document)))],
        charts=[chart for document in _list(entry.get("charts")) if (chart := _chart(_mapping(document)))],
        not_measurable=_texts(entry.get("not_measurable")),
        settings=_mapping(entry.get("settings")),
        seconds=finite(entry.get("seconds")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _text(value: Any) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _texts(value: Any) -> dict[str, str]:
    return {key: _text(text) for key, text in _mapping(value).items() if isinstance(text, str)}


def _pair(value: Any) -> tuple[float, float] | None:
    numbers = [number for one in _list(value) if (number := finite(one)) is not None]
    return (min(numbers), max(numbers)) if len(numbers) == 2 else None


def _table(document: Mapping[str, Any]) -> Table | None:
    columns = [str(column)[:_TEXT] for column in _list(document.get("columns"))]
    rows = [[_cell(cell) for cell in row][: len(columns)] for row in map(_list, _list(document.get("rows"))[:_ROWS])]
    if not columns:
        return None
    full = [row + [None] * (len(columns) - len(row)) for row in rows]
    return Table(_text(document.get("title")), columns, full, _text(document.get("caption")))


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _text(value) if isinstance(value, str) else finite(value)


def _chart(document: Mapping[str, Any]) -> Chart | None:
    series = {
        name: points
        for name, found in _mapping(document.get("series")).items()
        if (points := [point for one in _list(found)[:_POINTS] if (point := _point(_list(one)))])
    }
    kind = document.get("kind")
    if not series:
        return None
    return Chart(
        **{key: _text(document.get(key)) for key in ("title", "x", "y", "caption")},
        series=series,
        kind=next((known for known in get_args(ChartKind) if known == kind), "line"),
        log_x=document.get("log_x") is True,
        log_y=document.get("log_y") is True,
    )


def _point(values: Sequence[Any]) -> list[float | str] | None:
    """`[x, y]` or `[x, y, low, high]`; an interval that is none is dropped."""
    if len(values) < 2:
        return None
    x = _text(values[0]) if isinstance(values[0], str) else finite(values[0])
    y = finite(values[1])
    ends = _pair(list(values[2:4])) or ()
    point = [x, y, *ends]
    drawable = all(isinstance(one, str) or (one is not None and abs(one) <= _LARGEST) for one in point)
    return [one for one in point if one is not None] if drawable else None
