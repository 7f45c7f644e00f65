"""The page of an experiment on circuits: one HTML file without scripts or requests, as the report of a run."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from saelab.circuits.findings import Findings
from saelab.circuits.report import heads, heat, measured
from saelab.circuits.report.latents import latents
from saelab.evals.family import said_of_spread
from saelab.evals.report import frame
from saelab.evals.report.pieces import Card, Section, cards, details, note, paragraph
from saelab.evals.report.words import count, duration, said
from saelab.features import document
from saelab.features.render import text


def of_findings(found: Findings) -> str:
    """The page."""
    spread = f" {said_of_spread(found.seeds)}." if found.seeds > 1 else ""
    return frame.frame(
        f"{found.name} · saelab circuit",
        _header(found),
        [part for part in _sections(found) if part.body],
        footer=f"Heads are named layer.head, counted from 0.{spread}",
        styles=[_style()],
    )


def style() -> str:
    """All that pieces of the page need where they stand elsewhere, under a root of their own."""
    return frame.style() + _style()


@cache
def _style() -> str:
    return files("saelab.circuits.report").joinpath("style.css").read_text(encoding="utf-8") + heat.style()


def _header(found: Findings) -> str:
    return f'<p class="kicker">Circuit report</p><h1>{text(found.name)}</h1>{summary(found)}'


def summary(found: Findings) -> str:
    """The experiment in two sentences, what it stands on, and its headline numbers."""
    prompts = f", on {count(found.truth_prompts, 'prompt')} that no method saw" if found.truth_prompts else ""
    lead = (
        f"Which attention heads of {model_name(found)} do the task “{found.task}”, as "
        f"{count(len(found.methods), 'method')} say, with {count(found.seeds, 'seed')} each. They are held against "
        f"{found.truth.source}{prompts}."
    )
    return f'<p class="lead">{text(lead)}</p>{document.facts(essentials(found))}{cards(_cards(found))}'


def model_name(found: Findings) -> str:
    """The model's, without where it lies."""
    return found.model.removeprefix("asset:").rstrip("/").rpartition("/")[2] or found.model


def essentials(found: Findings) -> dict[str, str]:
    """What a reader asks first."""
    layers, width = found.shape
    facts = {
        "model": model_name(found),
        "task": found.task,
        "heads": f"{layers} layers of {width}",
        "ground truth": found.truth.source,
        "seeds": str(found.seeds),
        "outside circuits": f"{found.ablation} activations" if found.ablation else "",
        "SAE": found.features.run if found.features else "",
    }
    return {name: value for name, value in facts.items() if value}


def _cards(found: Findings) -> list[Card]:
    known, best = found.competence, found.rows[0]
    auc = best.auc[next(iter(found.truths))]
    size = found.shape[0] * found.shape[1]
    right = "share of prompts that the model answers rightly"
    return [
        Card("Right answers", said(100 * known.accuracy, 3), "%", meaning=right),
        Card("Score", said(known.clean, 3), meaning="by how much right answers are preferred to wrong ones, mean"),
        Card("Score, corrupted", said(known.corrupted, 3), meaning="the same where what decides the answer is gone"),
        Card("Heads in the circuit", f"{int(found.truth.members.sum())}", f"of {size}", meaning=found.truth.source),
        Card("Best AUC", said(auc and auc.mean, 3), meaning=f"of {best.label}"),
    ]


def _sections(found: Findings) -> list[Section]:
    return [
        Section("methods", "Methods", measured.methods(found)),
        Section("circuit", "The circuit" if found.shown else "Ground truth", heads.circuits(found)),
        Section("heads", "Scores of heads", heads.maps(found)),
        Section("roc", "ROC curves", measured.rocs(found)),
        Section("faithfulness", "What circuits keep", measured.faithfulness(found)),
        Section("together", "Ablated together", measured.together(found)),
        Section("features", "Features", latents(found.features)),
        Section("set-up", "Set-up", _set_up(found)),
    ]


def _set_up(found: Findings) -> str:
    spent = sum(scores.cost.seconds for one in found.methods.values() for scores in one.scores)
    told = f"Made by saelab {found.saelab}. All methods together took {duration(spent)}."
    lines = "<br>".join(_indented(line) for line in found.config.splitlines())
    whole = details("The whole config", f'<pre class="config">{lines}</pre>') if lines else ""
    return paragraph(told) + (whole or note("No config: this was written by the library, not by the command."))


def _indented(line: str) -> str:
    body = line.lstrip(" ")
    return " " * (len(line) - len(body)) + text(body)
