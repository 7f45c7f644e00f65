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
        """Each run and what it is called."""
        for place, run in enumerate(self.runs):
            seed = place if run.record.seed is None else run.record.seed
            yield (self.name if len(self.runs) == 1 else f"{self.name}, seed {seed}"), run


def looks(members: Sequence[Member]) -> dict[str, int]:
    """The number of every run, by what it is called."""
    return {name: member.number for member in members for name, _ in member.named()}


def section(name: str, members: Sequence[Member]) -> Section:
    """One evaluator over all members that have it."""
    found = {
        label: (member, evaluation)
        for member in members
        for label, run in member.named()
        if (evaluation := run.evaluation(name))
    }
    evaluations = {label: evaluation for label, (_, evaluation) in found.items()}
    first = next(iter(evaluations.values()))
    body = [
        paragraph(_counted(list(evaluations.values())), "dim"),
        gallery([_strip(metric, members, name) for metric in _differing(evaluations)]),
        gallery(_pictures(evaluations, looks(members))),
        details("All numbers", _numbers(evaluations)),
        details("Tables, side by side", "".join(map(table, _tables(evaluations)))),
        _missing(evaluations),
        how(first),
    ]
    return Section(anchor(name), title(name), "".join(body))


def _counted(found: Sequence[Evaluation]) -> str:
    counts = sorted({evaluation.counted for evaluation in found} - {""})
    said_ = f"{counts[0]} each" if len(counts) == 1 else " or ".join(counts[:3])
    return f"Measured on {said_}." if counts else ""


# -- numbers ------------------------------------------------------------------------------------------


def _metrics(evaluations: Mapping[str, Evaluation]) -> list[str]:
    return list(dict.fromkeys(metric for evaluation in evaluations.values() for metric in evaluation.metrics))


def _differing(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Metrics that are not the same for all."""
    return [
        metric
        for metric in _metrics(evaluations)
        if len({said(evaluation.metrics.get(metric)) for evaluation in evaluations.values()}) > 1
    ]


def _strip(metric: str, members: Sequence[Member], evaluator: str) -> str:
    """A metric as a row of dots for each member."""
    found: dict[str, list[Dot]] = {}
    meaning = ""
    for member in members:
        for label, run in member.named():
            evaluation = run.evaluation(evaluator)
            if evaluation is None or metric not in evaluation.metrics:
                continue
            value, ends = evaluation.metrics[metric], evaluation.intervals.get(metric)
            point = Point(label, value, *(ends or ()))
            between_ = f" ({between(metric, ends)})" if ends else ""
            found.setdefault(member.name, []).append(
                Dot(member.number, point, f"{label}: {measured(metric, value)}{between_}")
            )
            meaning = meaning or evaluation.meaning.get(metric, "")
    values = [dot.point.y for dots in found.values() for dot in dots]
    log = min(values) > 0 and max(values) / min(values) > _WIDE
    told = f"{title(metric)} of {len(found)}: {said(min(values))} to {said(max(values))}."
    return framed(title(metric), meaning, rows(told, found, metric, log=log))


def _numbers(evaluations: Mapping[str, Evaluation]) -> str:
    """Every metric of every run, with its interval."""
    meaning = {k: v for evaluation in evaluations.values() for k, v in evaluation.meaning.items()}
    body: list[list[Cell]] = [
        [metric, *(_number(evaluation, metric) for evaluation in evaluations.values()), meaning.get(metric, "")]
        for metric in _metrics(evaluations)
    ]
    return grid(Table("", ["metric", *evaluations, "what it is"], body), label="All numbers") if body else ""


def _number(evaluation: Evaluation, metric: str) -> str | None:
    if metric not in evaluation.metrics:
        return None
    ends = between(metric, evaluation.intervals.get(metric))
    return measured(metric, evaluation.metrics[metric]) + (f" ({ends})" if ends else "")


def _missing(evaluations: Mapping[str, Evaluation]) -> str:
    found: list[list[Cell]] = [
        [label, name, reason]
        for label, evaluation in evaluations.items()
        for name, reason in evaluation.not_measurable.items()
    ]
    if not found:
        return ""
    return details("Not measurable", grid(Table("", ["run", "what", "because"], found), label="Not measurable"))


# -- charts and tables --------------------------------------------------------------------------------


def _pictures(evaluations: Mapping[str, Evaluation], numbers: Mapping[str, int]) -> list[str]:
    """For each series of each chart a picture with a series for each run, where runs differ in it."""
    found = []
    for own in _charts(evaluations):
        series = list(dict.fromkeys(one for chart in own.values() for one in chart.series))
        for one in series:
            drawn = {label: chart.series[one] for label, chart in own.items() if one in chart.series}
            first = next(iter(own.values()))
            name = first.title if len(series) == 1 else f"{first.title}: {one}"
            if len(drawn) == 1 or any(points != next(iter(drawn.values())) for points in drawn.values()):
                found.append(_picture(replace(first, title=name, series=drawn), numbers))
    return found


def _charts(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Chart]]:
    """Charts of one title, by run."""
    known: dict[str, dict[str, Chart]] = {}
    for label, evaluation in evaluations.items():
        for chart in evaluation.charts:
            known.setdefault(chart.title, {})[label] = chart
    return list(known.values())


def _picture(chart: Chart, numbers: Mapping[str, int]) -> str:
    if chart.kind == "bars" and charts.are_bins(chart):
        return figure(replace(chart, kind="line"), numbers, key=False, values=False)
    many = sum(map(len, chart.series.values()))
    if chart.kind == "bars" and many > _MOST_DOTS:
        return framed(chart.title, chart.caption, paragraph("Too many to draw; the tables have them.", "dim"))
    return figure(chart, numbers, key=False, values=False)


def _tables(evaluations: Mapping[str, Evaluation]) -> list[Table]:
    """Tables of one title as one: rows of the same place under each other, with the run beside their names."""
    known: dict[str, dict[str, Table]] = {}
    for label, evaluation in evaluations.items():
        for one in evaluation.tables:
            known.setdefault(one.title, {})[label] = one
    return [_merged(name, own) for name, own in known.items()]


def _merged(name: str, own: Mapping[str, Table]) -> Table:
    first = next(iter(own.values()))
    alike = {label: one for label, one in own.items() if list(one.columns) == list(first.columns)}
    names = _leading(list(alike.values()))
    columns = [*first.columns[:names], "run", *first.columns[names:]]
    body: list[list[Cell]] = [
        [*one.rows[place][:names], label, *one.rows[place][names:]]
        for place in range(max((len(one.rows) for one in alike.values()), default=0))
        for label, one in alike.items()
        if place < len(one.rows)
    ]
    return Table(name, columns, body, first.caption)


def _leading(tables: Sequence[Table]) -> int:
    """How many columns, from the first on, hold names."""
    every = [row for one in tables for row in one.rows]
    width = min((len(row) for row in every), default=0)
    texts = [all(isinstance(row[column], str) for row in every) for column in range(width)]
    return next((place for place, is_text in enumerate(texts) if not is_text), width)
