"""What evaluators found in one run, as sections: any evaluator's, by what every one of them writes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from html import escape

from saelab.errors import SaelabError
from saelab.evals.base import EVALUATORS
from saelab.evals.report.measured import Evaluation
from saelab.evals.report.pieces import Card, Section, boxed, details, figure, gallery, paragraph, table
from saelab.evals.report.words import DASH, between, duration, in_unit, measured, title
from saelab.features.render import text

HEADLINES = ("fvu", "l0", "ce_score", "delta_ce_nats", "dead_frac", "sufficiency")
"""Metrics that have a card wherever they are; of other evaluators, the first metric has."""
_CARDS, _SHOWN, _SETTING = 9, 10, 300
"""At most so many cards; metrics that are not folded; characters of a setting."""


def cards(found: Sequence[Evaluation]) -> list[Card]:
    """Headline numbers: the usual ones, and one of each evaluator that has none of these."""
    of = {name: evaluation for evaluation in found for name in evaluation.metrics}
    known = [name for name in HEADLINES if name in of]
    others = [e for e in found if e.metrics and not e.metrics.keys() & set(HEADLINES)]
    return [_card(of[name], name) for name in [*known, *(next(iter(e.metrics)) for e in others)][:_CARDS]]


def _card(evaluation: Evaluation, name: str) -> Card:
    return Card(
        title(name),
        *in_unit(name, evaluation.metrics[name], 3),
        between(name, evaluation.intervals.get(name)),
        evaluation.meaning.get(name, ""),
        evaluation.counted,
    )


def section(evaluation: Evaluation) -> Section:
    """An evaluator's pictures, numbers and tables."""
    pictures = [figure(chart) for chart in evaluation.charts]
    numbers = _metrics(evaluation)
    if len(pictures) == 1 and numbers:  # beside each other
        shown = f'<div class="beside">{pictures[0]}{numbers}</div>'
    else:
        shown = gallery(pictures) + numbers
    tables = "".join(map(table, evaluation.tables))
    folded = details(f"Tables ({len(evaluation.tables)})", tables)
    body = [paragraph(_counted(evaluation), "dim"), shown, _missing(evaluation), folded, how(evaluation)]
    return Section(anchor(evaluation.name), title(evaluation.name), "".join(body))


def anchor(name: str) -> str:
    """A name as a link's target."""
    return "eval-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in name)


def _counted(evaluation: Evaluation) -> str:
    return f"Measured on {evaluation.counted}." if evaluation.counted else ""


def _metrics(evaluation: Evaluation) -> str:
    """Every number with its interval and what it is."""
    if not evaluation.metrics:
        return ""
    right = ' class="n"'
    between_ = f'<th scope="col"{right}>95 % interval</th>' if evaluation.intervals else ""
    head = f'<th scope="col">metric</th><th scope="col"{right}>value</th>{between_}<th scope="col">what it is</th>'
    found = [_metric(evaluation, name) for name in evaluation.metrics]
    parts = (found[:_SHOWN], found[_SHOWN:]) if len(found) > _SHOWN + 3 else (found, [])
    tables = [
        boxed(f'<table class="metrics"><thead><tr>{head}</tr></thead><tbody>{"".join(part)}</tbody></table>', label)
        for part, label in zip(parts, (f"Metrics of {title(evaluation.name)}", "More of them"), strict=True)
        if part
    ]
    return f"<div>{tables[0]}{details(f'{len(parts[1])} more', ''.join(tables[1:]))}</div>"


def _metric(evaluation: Evaluation, name: str) -> str:
    """A row of the table."""
    value = f'<td class="n">{text(measured(name, evaluation.metrics[name]))}</td>'
    ends = between(name, evaluation.intervals.get(name)) or DASH
    interval = f'<td class="n between">{text(ends)}</td>' if evaluation.intervals else ""
    meaning = f'<td class="meaning"><bdi>{text(evaluation.meaning.get(name, ""))}</bdi></td>'
    return f'<tr><th scope="row"><bdi>{text(name)}</bdi></th>{value}{interval}{meaning}</tr>'


def _missing(evaluation: Evaluation) -> str:
    """What could not be measured, and why."""
    if not evaluation.not_measurable:
        return ""
    said = "".join(
        f"<li><b><bdi>{text(name)}</bdi></b>: not measurable, because <bdi>{text(reason)}</bdi></li>"
        for name, reason in evaluation.not_measurable.items()
    )
    return f'<ul class="missing">{said}</ul>'


def how(evaluation: Evaluation) -> str:
    """The evaluator's own words, and its settings."""
    settings = ", ".join(f"{name}: {_setting(value)}" for name, value in evaluation.settings.items()) or "none"
    spent = "" if evaluation.seconds is None else f" It took {duration(evaluation.seconds)}."
    body = _docstring(evaluation.name) + paragraph(f"Settings: {settings}.{spent}", "dim")
    return details("How it is measured", f'<div class="how">{body}</div>')


def _docstring(name: str) -> str:
    """Its paragraphs; those that are indented are formulas, and keep their lines."""
    try:
        said = inspect.getdoc(EVALUATORS[name]) or ""
    except (SaelabError, ImportError, AttributeError):  # one that is not there, or not any more
        return ""
    paragraphs = [escape(part, quote=False) for part in re.split(r"\n\s*\n", said)]
    return "".join(f"<pre>{part}</pre>" if part.startswith(" ") else f"<p>{part}</p>" for part in paragraphs)


def _setting(value: object) -> str:
    written = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "none" if value is None else written[:_SETTING]
