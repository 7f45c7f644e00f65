"""The page of one run."""

from __future__ import annotations

from collections.abc import Iterator

from saelab.evals.base import EVALUATORS
from saelab.evals.report import evaluations, facts, training
from saelab.evals.report.features import features
from saelab.evals.report.pieces import Card, Section, cards, details, gallery, note, paragraph
from saelab.evals.report.run import Run
from saelab.evals.report.words import measured, title
from saelab.features import document
from saelab.features.render import text
from saelab.training.run_directory import RunDirectory

_WHILE_TRAINING = ("fvu", "l0", "cosine", "dead_frac")
"""What stands in for measurements until there are some."""


def header(run: Run) -> str:
    """The run in a sentence, its headline numbers, and what is missing."""
    found = evaluations.cards(run.evaluations) or _provisional(run)
    return (
        f'<p class="kicker">SAE report</p><h1>{text(run.name)}</h1><p class="lead">{text(facts.lead(run))}</p>'
        f"{document.facts(facts.essentials(run))}{cards(found)}{''.join(_missing(run))}"
    )


def sections(run: Run) -> list[Section]:
    """Pictures first; what the run was made of last."""
    parts = [Section("training", "Training", _training(run))]
    parts += map(evaluations.section, run.evaluations)
    parts.append(Section("features", "Example features", features(run)))
    parts.append(Section("set-up", "Set-up", _set_up(run)))
    return parts


def _provisional(run: Run) -> list[Card]:
    """What training itself found, until it is measured."""
    found = run.record.heldout
    return [
        Card(title(name), f"~{measured(name, found[name], 3)}", meaning="found while training, on few held-out tokens")
        for name in _WHILE_TRAINING
        if name in found
    ]


def _missing(run: Run) -> Iterator[str]:
    """What is not there yet, and the command that makes it."""
    if run.problems:
        yield note("; ".join(run.problems))
    if not run.sae:
        alone = RunDirectory(run.path).checkpoints.exists()  # else it began with others, by another config
        command = f"saelab run {RunDirectory(run.path).config}" if alone else ""
        yield note(f"This run is not finished: {run.record.standing}. The command that began it goes on.", command)
        return
    known = {evaluation.name for evaluation in run.evaluations}
    planned = [name for name in run.plan.evaluators if name not in known]
    if not run.evaluations:
        yield note("This run is not measured yet.", f"saelab eval {run.path}")
    elif planned:
        begun = [f"{name} (begun)" if name in run.unfinished else name for name in planned]
        yield note(f"Not measured yet: {', '.join(begun)}.", f"saelab eval {run.path}")


def _training(run: Run) -> str:
    drawn = training.of_one(run)
    if not drawn:
        return note("No curves: there is nothing in metrics.jsonl.")
    return gallery(drawn)


def _set_up(run: Run) -> str:
    """Everything the files say, and the config."""
    groups = "".join(
        f"<div><h3>{text(name)}</h3>{document.facts(group)}</div>" for name, group in facts.in_full(run).items()
    )
    return f'<div class="facts">{groups}</div>{details("The whole config", _config(run))}{_further(run)}'


def _config(run: Run) -> str:
    """The config as it stands in the file."""
    shown = []
    for line in run.config_text.splitlines():
        body = line.lstrip(" ")
        shown.append(" " * (len(line) - len(body)) + text(body))
    return f'<pre class="config">{"<br>".join(shown)}</pre>' if shown else ""


def _further(run: Run) -> str:
    """Evaluators that were not asked for."""
    asked = {evaluation.name for evaluation in run.evaluations} | set(run.plan.evaluators)
    others = [name for name in EVALUATORS if name not in asked]
    if not others or not run.sae:
        return ""
    said = f"Not asked for: {', '.join(others)}. Each is measured with"
    return paragraph(said, "dim") + f"<p><code>{text(f'saelab eval {run.path} -o eval.{others[0]}={{}}')}</code></p>"
