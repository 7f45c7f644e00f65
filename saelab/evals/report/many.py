"""The page of several runs beside each other: of a comparison, a sweep, or any that are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saelab.evals import family
from saelab.evals.base import Chart, Table
from saelab.evals.family import FamilyTable, Spread
from saelab.evals.report import compared, facts, training
from saelab.evals.report.compared import Member
from saelab.evals.report.marks import Point
from saelab.evals.report.measured import Cell
from saelab.evals.report.pieces import (
    Card,
    Section,
    cards,
    details,
    figure,
    framed,
    gallery,
    grid,
    legend,
    note,
    paragraph,
)
from saelab.evals.report.rows import Dot, rows
from saelab.evals.report.run import Run, in_order
from saelab.evals.report.words import count, measured, said, title
from saelab.features import document
from saelab.features.render import text

_COLUMNS = ("fvu", "l0", "ce_score", "delta_ce_nats", "dead_frac")
_ELSEWHERE = ("name", "runs_dir", "eval", "index", "sweep", "compare")
"""Parts of a config that say nothing of how the SAE came about."""
_MOST_SETTINGS = 4
"""Where more settings differ, the variant and its sparsity stand for them."""


@dataclass(frozen=True)
class Comparison:
    """What is shown.

    Attributes:
        name: of all of it.
        members: in order; table: where there is a reference, and seeds.
        notes: what could not be read.
    """

    name: str
    members: Sequence[Member]
    table: FamilyTable | None = None
    notes: Sequence[str] = field(default=())

    @property
    def runs(self) -> dict[str, Run]:
        """Every run by what it is called."""
        return {name: run for member in self.members for name, run in member.named()}

    @property
    def reference(self) -> str:
        """What the members of the reference curve are called together; empty where there is none."""
        return self.table.comparison.label if self.table and self.table.comparison.curve else ""


def header(found: Comparison) -> str:
    """What is compared, and the best of it."""
    runs = list(found.runs.values())
    seeds = max(len(member.runs) for member in found.members)
    many = count(len(found.members), "SAE") + (f", each on {count(seeds, 'seed')}," if seeds > 1 else "")
    common = _common(runs)
    where = " of ".join(common[key] for key in ("hook", "model") if key in common)
    lead = f"{many} side by side{f', on {where}' if where else ''}."
    waiting = [f"{name}: {run.record.standing}" for name, run in found.runs.items() if run.record.state != "evaluated"]
    missing = [*found.notes, *([f"Not measured yet: {'; '.join(waiting)}."] if waiting else [])]
    return (
        f'<p class="kicker">SAE comparison</p><h1>{text(found.name)}</h1><p class="lead">{text(lead)}</p>'
        f"{document.facts(common)}{cards(_best(found))}{''.join(map(note, missing))}"
    )


def sections(found: Comparison) -> list[Section]:
    """Everything at one look first, then each evaluator."""
    evaluators = in_order({e.name: None for run in found.runs.values() for e in run.evaluations})
    parts = [
        Section("overview", "Overview", _overview(found)),
        Section("numbers", "Numbers", _table(found)),
        Section("training", "Training", gallery(training.of_several(found.runs, compared.looks(found.members)))),
        *(compared.section(name, found.members) for name in evaluators),
        Section("set-up", "Set-up", _set_up(found)),
    ]
    return [part for part in parts if part.body]


def key(found: Comparison) -> str:
    """The legend of the whole page, which stays in sight."""
    return f'<div class="key">{legend(_names(found))}</div>'


def _names(found: Comparison) -> dict[str, int]:
    """Looks by name, the reference's members as one."""
    curve = found.table.comparison.curve if found.table else ()
    return {found.reference if member.name in curve else member.name: member.number for member in found.members}


def _common(runs: Sequence[Run]) -> dict[str, str]:
    """What is the same for all."""
    known = [facts.essentials(run) for run in runs]
    return {name: value for name, value in known[0].items() if all(one.get(name) == value for one in known)}


def _best(found: Comparison) -> list[Card]:
    """The ends of what is measured; who leads depends on L0, which stands beside it."""
    spreads = {member.name: {name: _spread(member, name) for name in _COLUMNS} for member in found.members}

    def lead(metric: str, heading: str, sign: int) -> list[Card]:
        known = {name: s for name, own in spreads.items() if (s := own[metric])}
        if len({spread.mean for spread in known.values()}) < 2:
            return []
        who = min(known, key=lambda name: sign * known[name].mean)
        l0 = spreads[who]["l0"]
        at = f"at L0 {said(l0.mean, 3)}" if l0 and metric != "l0" else ""
        return [Card(heading, measured(metric, known[who].mean, 3), meaning=f"{who} {at}".strip())]

    return [
        *lead("fvu", "Lowest FVU", 1),
        *lead("ce_score", "Highest CE score", -1),
        *lead("l0", "Sparsest: L0", 1),
        *lead("dead_frac", "Fewest dead latents", 1),
        *_ahead(found),
    ]


def _ahead(found: Comparison) -> list[Card]:
    """The member that is furthest below the reference at its own L0."""
    known = [row for row in found.table.rows if row.reference] if found.table else []
    if not known:
        return []
    row = min(known, key=lambda row: row.reference.fvu_ratio.mean if row.reference else 0.0)
    assert row.reference is not None
    meaning = f"{row.name}: its FVU over that of {row.reference.name} at L0 {said(row.reference.l0.mean, 3)}"
    return [Card("Best beside the reference", f"× {said(row.reference.fvu_ratio.mean, 3)}", meaning=meaning)]


def _spread(member: Member, metric: str) -> Spread | None:
    values = [run.record.value(metric) for run in member.runs]
    return Spread.of([value for value in values if value is not None])


# -- overview -----------------------------------------------------------------------------------------


def _overview(found: Comparison) -> str:
    """FVU and lost CE against L0, and what a reference says of both."""
    fvu = "Share of variance not reconstructed, against how many latents that takes; lower is better."
    lost = "Share of the next-token loss not recovered, against zero ablation; lower is better."
    charts = [
        _against_l0(found, "fvu", "FVU against L0", "FVU", fvu),
        _against_l0(found, "ce_score", "Lost CE against L0", "1 - CE score", lost),
    ]
    drawn = [figure(chart, _names(found), key=False) for chart in charts if chart.series]
    beside = [
        _beside(found, "fvu_ratio", "FVU beside the reference"),
        _beside(found, "added_loss_ratio", "Added loss beside the reference"),
    ]
    drawn += [one for one in beside if one]
    return gallery(drawn)


def _against_l0(found: Comparison, metric: str, heading: str, y: str, caption: str) -> Chart:
    """A point for each member, means over seeds; the reference's are joined. A score is drawn by what it lacks."""
    series: dict[str, list[list[float | str]]] = {}
    curve = found.table.comparison.curve if found.table else ()
    for member in found.members:
        l0, value = _spread(member, "l0"), _spread(member, metric)
        if l0 is not None and value is not None:
            values = (value.low, value.mean, value.high)
            low, middle, high = sorted(1 - v for v in values) if metric == "ce_score" else values
            name = found.reference if member.name in curve else member.name
            series.setdefault(name, []).append([l0.mean, middle, *([low, high] if low < high else [])])
    log = all(float(point[1]) > 0 for points in series.values() for point in points)
    return Chart(heading, "L0: active latents per token", y, series, "line", log_x=True, log_y=log, caption=caption)


def _beside(found: Comparison, part: str, heading: str) -> str:
    """Ratios to the reference at each member's own L0, the best first."""
    numbers = {member.name: member.number for member in found.members}
    known: dict[str, Spread] = {}
    for row in found.table.rows if found.table else ():
        spread = getattr(row.reference, part) if row.reference else None
        if spread is not None:
            known[row.name] = spread
    if not known:
        return ""
    ordered = sorted(known.items(), key=lambda one: one[1].mean)
    dots = {name: [_ratio(name, spread, numbers.get(name, 0))] for name, spread in ordered}
    ends = [f"{name} ({said(spread.mean, 3)})" for name, spread in (ordered[0], ordered[-1])]
    where = f"Left of the line is better than {found.reference} at the same L0; ratios are formed seed by seed."
    return framed(heading, where, rows(f"{heading}: from {' to '.join(ends)}.", dots, "ratio", mark=1.0))


def _ratio(name: str, spread: Spread, number: int) -> Dot:
    ends = (spread.low, spread.high) if len(spread.values) > 1 else ()
    return Dot(number, Point(name, spread.mean, *ends), f"{name}: × {said(spread.mean)}")


# -- numbers ------------------------------------------------------------------------------------------


def _table(found: Comparison) -> str:
    """Means over seeds with their spread, or a row for each run."""
    if found.table is None or not found.table.measured:
        return grid(_plain_table(found), label="Numbers of all runs") + _provisional(found)
    headings, body = family.cells(found.table, tuple(family.COLUMNS))
    notes = "".join(paragraph(one, "dim") for one in family.notes(found.table))
    of_runs = details("Run by run", grid(_plain_table(found), label="Numbers of all runs"))
    return grid(Table("", headings, body), label="Means over seeds") + notes + of_runs


def _plain_table(found: Comparison) -> Table:
    settings = _settings(found)
    body: list[list[Cell]] = [
        [
            name,
            *(settings[name].get(key, "") for key in _columns(settings)),
            *(_value(run, metric) for metric in _COLUMNS),
            *(run.record.tokens, run.record.tokens_per_second, run.record.standing),
        ]
        for name, run in found.runs.items()
    ]
    heads = ["run", *_columns(settings), *map(title, _COLUMNS), "tokens", "tokens/s", "state"]
    return Table("", heads, body)


def _value(run: Run, metric: str) -> str | None:
    value = run.record.value(metric)
    if value is None:
        return None
    return ("" if metric in run.record.metrics else "~") + measured(metric, value)


def _provisional(found: Comparison) -> str:
    some = any(not run.record.metrics and run.record.heldout for run in found.runs.values())
    return paragraph("~ on the few held-out tokens that training looks at.", "dim") if some else ""


def _settings(found: Comparison) -> dict[str, dict[str, str]]:
    """By run, the settings in which runs differ; of many, the variant and its sparsity."""
    flat: dict[str, dict[str, str]] = {}
    for name, run in found.runs.items():
        flat[name] = facts.flat({key: value for key, value in run.config.items() if key not in _ELSEWHERE})
    keys = dict.fromkeys(key for one in flat.values() for key in one)
    differing = [key for key in keys if len({one.get(key) for one in flat.values()}) > 1]
    if 0 < len(differing) <= _MOST_SETTINGS:
        return {name: {key: one.get(key, "") for key in differing} for name, one in flat.items()}
    records = {name: run.record for name, run in found.runs.items()}
    return {name: {"variant": r.kind or "", "sparsity": r.target or ""} for name, r in records.items()}


def _columns(settings: Mapping[str, Mapping[str, str]]) -> list[str]:
    return list(next(iter(settings.values()), {}))


def _set_up(found: Comparison) -> str:
    """What was done alike; and where each run's own page comes from."""
    runs = list(found.runs.values())
    first, *others = [facts.in_full(run) for run in runs]
    parts = []
    for group, values in first.items():
        alike = {k: v for k, v in values.items() if all(one.get(group, {}).get(k) == v for one in others)}
        parts += [f"<div><h3>{text(group)}</h3>{document.facts(alike)}</div>"] if alike else []
    own = paragraph("What is the same for all. A run's own page, with its curves and example features:", "dim")
    command = f"<p><code>{text(f'saelab report {runs[0].path}')}</code></p>"
    return f'{own}{command}<div class="facts">{"".join(parts)}</div>'
