"""What an evaluator found in several runs, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from saelab.evals.base import Chart, Table
from saelab.evals.report import charts
from saelab.evals.report.evaluations import anchor, how
from saelab.evals.report.marks import Point
from saelab.evals.report.measured import Cell, Evaluation
from saelab.evals.report.pieces import Section, details, figure, framed, gallery, grid, paragraph, table
from saelab.evals.report.rows import Dot, rows
from saelab.evals.report.run import Run
from saelab.evals.report.words import between, measured, said, title

_WIDE = 50.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""
_MOST_DOTS = 150
"""A picture of rows with more is left to the tables."""


@dataclass(frozen=True)
class Member:
    """What is compared: a run, or the runs of several seeds.

    Attributes:
        number: decides its looks.
    """

    name: str
    number: int
    runs: Sequence[Run]

    def named(self) -> Iterator[tuple[str, Run]]:
        """Each run and what it is called: by its seed, where there are several."""
        seeds = [run.record.seed for run in self.runs]
        known = seeds if None not in seeds and len(set(seeds)) == len(seeds) else range(len(seeds))
        for seed, run in zip(known, self.runs, strict=True):
            yield (self.name if len(self.runs) == 1 else f"{self.name}, seed {seed}"), run


@dataclass(frozen=True)
class _Entry:
    """What one run of a member found."""

    member: Member
    label: str
    evaluation: Evaluation


def looks(members: Sequence[Member]) -> dict[str, int]:
    """The number of every run, by what it is called."""
    return {label: member.number for member in members for label, _ in member.named()}


def section(name: str, members: Sequence[Member]) -> Section:
    """One evaluator over all members that have it."""
    entries = [
        _Entry(member, label, evaluation)
        for member in members
        for label, run in member.named()
        if (evaluation := run.evaluation(name))
    ]
    body = [
        paragraph(_counted(entries), "dim"),
        gallery([_strip(metric, entries) for metric in _differing(entries)], pairs=False),
        gallery(_pictures(entries)),
        details("All numbers", _numbers(entries)),
        details("Tables, side by side", "".join(map(table, _tables(entries)))),
        details("Not measurable", _missing(entries)),
        how(entries[0].evaluation),
    ]
    return Section(anchor(name), title(name), "".join(body))


def _counted(entries: Sequence[_Entry]) -> str:
    counts = sorted({entry.evaluation.counted for entry in entries} - {""})
    return f"Measured on {' or on '.join(counts[:3])}{' each' if len(counts) == 1 else ''}." if counts else ""


# -- numbers ------------------------------------------------------------------------------------------


def _metrics(entries: Sequence[_Entry]) -> list[str]:
    return list(dict.fromkeys(metric for entry in entries for metric in entry.evaluation.metrics))


def _differing(entries: Sequence[_Entry]) -> list[str]:
    """Metrics that are not the same for all."""
    values = {metric: {said(e.evaluation.metrics.get(metric)) for e in entries} for metric in _metrics(entries)}
    return [metric for metric, found in values.items() if len(found) > 1]


def _strip(metric: str, entries: Sequence[_Entry]) -> str:
    """A metric as a row of dots for each member."""
    found: dict[str, list[Dot]] = {}
    for entry in entries:
        if metric in entry.evaluation.metrics:
            point = Point(entry.label, entry.evaluation.metrics[metric], *entry.evaluation.intervals.get(metric, ()))
            told = f"{entry.label}: {_number(entry, metric)}"
            found.setdefault(entry.member.name, []).append(Dot(entry.member.number, point, told))
    values = [dot.point.y for dots in found.values() for dot in dots]
    log = min(values) > 0 and max(values) / min(values) > _WIDE
    described = f"{title(metric)} of {len(found)}: {said(min(values))} to {said(max(values))}."
    return framed(title(metric), _meaning(metric, entries), rows(described, found, metric, log=log))


def _meaning(metric: str, entries: Sequence[_Entry]) -> str:
    return next((m for entry in entries if (m := entry.evaluation.meaning.get(metric))), "")


def _numbers(entries: Sequence[_Entry]) -> str:
    """Every metric of every run, with its interval."""
    body: list[list[Cell]] = [
        [metric, *(_number(entry, metric) for entry in entries), _meaning(metric, entries)]
        for metric in _metrics(entries)
    ]
    columns = ["metric", *(entry.label for entry in entries), "what it is"]
    return grid(Table("", columns, body), label="All numbers") if body else ""


def _number(entry: _Entry, metric: str) -> str | None:
    if metric not in entry.evaluation.metrics:
        return None
    ends = between(metric, entry.evaluation.intervals.get(metric))
    return measured(metric, entry.evaluation.metrics[metric]) + (f" ({ends})" if ends else "")


def _missing(entries: Sequence[_Entry]) -> str:
    found: list[list[Cell]] = [
        [entry.label, name, reason] for entry in entries for name, reason in entry.evaluation.not_measurable.items()
    ]
    return grid(Table("", ["run", "what", "because"], found), label="Not measurable") if found else ""


# -- charts and tables --------------------------------------------------------------------------------


def _pictures(entries: Sequence[_Entry]) -> list[str]:
    """For each series of each chart a picture with a series for each run, where runs differ in it."""
    numbers = {entry.label: entry.member.number for entry in entries}
    known: dict[str, dict[str, Chart]] = {}
    for entry in entries:
        for chart in entry.evaluation.charts:
            known.setdefault(chart.title, {})[entry.label] = chart
    return [drawn for own in known.values() for drawn in _of_title(own, numbers)]


def _of_title(own: Mapping[str, Chart], numbers: Mapping[str, int]) -> Iterator[str]:
    """Pictures of the charts of one title; what one run alone has is drawn as it is."""
    (label, whole), *others = own.items()
    if not others:
        yield figure(replace(whole, title=f"{whole.title} ({label})"))
        return
    series = list(dict.fromkeys(one for chart in own.values() for one in chart.series))
    for one in series:
        drawn = {name: chart.series[one] for name, chart in own.items() if one in chart.series}
        first, *rest = drawn.values()
        if not rest or any(points != first for points in rest):
            title_ = whole.title if len(series) == 1 else f"{whole.title}: {one}"
            yield _picture(replace(whole, title=title_, series=drawn), numbers)


def _picture(chart: Chart, numbers: Mapping[str, int]) -> str:
    many = sum(map(len, chart.series.values()))
    if chart.kind == "bars" and charts.are_bins(chart):
        chart = replace(chart, kind="line")
    elif chart.kind == "bars" and many > _MOST_DOTS:
        return framed(chart.title, chart.caption, paragraph("Too many to draw; the tables have them.", "dim"))
    return figure(chart, numbers, key=False, values=many <= _MOST_DOTS)


def _tables(entries: Sequence[_Entry]) -> list[Table]:
    """Tables of one title as one: rows of the same place under each other, with the run beside their names."""
    known: dict[tuple[str, ...], dict[str, Table]] = {}
    for entry in entries:
        for one in entry.evaluation.tables:
            known.setdefault((one.title, *one.columns), {})[entry.label] = one
    return [_merged(own) for own in known.values()]


def _merged(own: Mapping[str, Table]) -> Table:
    first = next(iter(own.values()))
    names = _leading(list(own.values()))
    body: list[list[Cell]] = [
        [*one.rows[place][:names], label, *one.rows[place][names:]]
        for place in range(max(len(one.rows) for one in own.values()))
        for label, one in own.items()
        if place < len(one.rows)
    ]
    return replace(first, columns=[*first.columns[:names], "run", *first.columns[names:]], rows=body)


def _leading(tables: Sequence[Table]) -> int:
    """How many columns, from the first on, hold names."""
    every = [row for one in tables for row in one.rows]
    width = min((len(row) for row in every), default=0)
    texts = [all(isinstance(row[column], str) for row in every) for column in range(width)]
    return next((place for place, is_text in enumerate(texts) if not is_text), width)
