"""Records of the comparison as metrics, tables and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saelab.evals.base import Chart, Result, Table
from saelab.evals.supervised.work import MIN_EFFECT

_NAMES = {
    "supervised_mse": "supervised, least squares",
    "supervised_mean": "supervised, means",
    "sae": "this SAE",
    "task_sae": "SAE of the task",
    "truth": "ground truth",
    "none": "no edit",
}


def result(
    task: str, model: Mapping[str, Any], own: Mapping[str, Any], further: Sequence[Mapping[str, Any]], n_examples: int
) -> Result:
    """Metrics are of the section where the SAE reads; every section has its tables."""
    metrics = {"task_accuracy": model["accuracy"], "task_score": model["score"], "site_effect": own["effect"]}
    meaning = {
        "task_accuracy": f"share of '{task}' prompts the model answers rightly, untouched",
        "task_score": "by how much right answers are preferred to wrong ones, untouched (nats, or probability)",
        "site_effect": f"share of that lost where {own['section']} is at its mean: what is to be explained",
    }
    reasons = {
        section["section"]: f"ablating it changes the score by {section['effect']:.1%}, less than {MIN_EFFECT:.0%}"
        for section in (own, *further)
        if "approximation" not in section
    }
    intervals: dict[str, tuple[float, float]] = {}
    if "approximation" in own:
        for name, entry, says in _scalars(own):
            metrics[name], meaning[name] = entry["value"], says
            if entry.get("low") is not None:
                intervals[name] = (entry["low"], entry["high"])
    sections = [section for section in (own, *further) if "approximation" in section]
    return Result(
        metrics,
        n_tokens=0,
        n_examples=n_examples,
        intervals=intervals,
        meaning=meaning,
        tables=[table for section in sections for table in _tables(section)],
        charts=[_edits_chart(own)] if "approximation" in own else [],
        details={"effect_by_position": model["effects"]},
        not_measurable=reasons,
    )


def _scalars(own: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str]]:
    """Name, number and meaning of what the SAE, and the supervised dictionary beside it, come to."""
    found: list[tuple[str, Mapping[str, Any], str]] = []
    says = {
        "sufficiency": "score with {} in place of the activation, as a share of the clean one (1 is perfect)",
        "necessity": "share of the score lost where what {} explain is taken away (1: nothing is left)",
    }
    for coder, prefix, what in (
        ("sae", "", "the SAE's reconstructions"),
        ("supervised_mse", "supervised_", "supervised reconstructions"),
    ):
        for axis, sentence in says.items():
            found.append((f"{prefix}{axis}", own["approximation"][coder][axis], sentence.format(what)))
    for attribute, edits in own["control"].items():
        for editor, control in edits.items():
            kind, _, budget = editor.partition(" ")
            named = {
                "none": ("unedited", "no edit"),
                "supervised_mse": ("supervised_edit", "the supervised edit"),
                "sae": (f"edit_{budget}", f"at most {budget} latents"),
            }
            if kind not in named:
                continue
            name, by = named[kind]
            meaning = f"prompts whose answer is that of ground-truth patching of {attribute}, with {by} (1 is best)"
            found.append((f"{name}_{attribute}", control["agreement"], meaning))
    for attribute, entry in own["detectors"]["sae"].items():
        meaning = (
            f"F1 of the best latent for a value of {attribute}, mean over values, on held-out templates (1 is best)"
        )
        found.append((f"f1_{attribute}", {"value": entry["f1"]}, meaning))
    return found


def _tables(section: Mapping[str, Any]) -> list[Table]:
    where = section["section"]
    tables = [
        Table(
            f"Approximation at {where}",
            ("dictionary", "sufficiency", "necessity"),
            [
                (_NAMES[name], entry["sufficiency"]["value"], entry["necessity"]["value"])
                for name, entry in section["approximation"].items()
            ],
            caption=f"Clean score {section['clean']:.2f}, {section['ablated']:.2f} with the site at its mean.",
        ),
        Table(
            f"Edits at {where}",
            ("attribute", "edit", "agrees with ground truth", "in the very token", "score", "distance", "latents"),
            [
                (attribute, _edit_name(editor), *_row(control))
                for attribute, edits in section["control"].items()
                for editor, control in edits.items()
            ],
            caption="Agreement: the likeliest answer is that under ground-truth patching; beside it, the likeliest "
            "token of all. Distance to the activations of the changed prompt, of that of no edit.",
        ),
    ]
    if "detectors" in section:
        tables += [_detectors(section), _diagnostics(section)]
    return tables


def _edit_name(editor: str) -> str:
    name, _, budget = editor.partition(" ")
    return f"{_NAMES[name]}, {budget} latents" if budget else _NAMES[name]


def _row(control: Mapping[str, Any]) -> tuple[float, ...]:
    agreement = control["agreement"]["value"]
    return agreement, control["agreement_token"], control["score"], control["distance"], control["latents"]


def _detectors(section: Mapping[str, Any]) -> Table:
    rows = [
        (
            _NAMES[name],
            attribute,
            entry["f1"],
            entry["union_f1"],
            entry["null_f1"],
            f"{entry['detected']} of {entry['values']}",
        )
        for name, attributes in section["detectors"].items()
        for attribute, entry in attributes.items()
    ]
    kept = section["interpretable"]
    said = "; ".join(
        f"{_NAMES[name]}: {entry['latents']} such latents alone have sufficiency {entry['sufficiency']['value']:.2f} "
        f"and necessity {entry['necessity']['value']:.2f}"
        for name, entry in kept.items()
    )
    return Table(
        f"Latents as detectors at {section['section']}",
        ("dictionary", "attribute", "F1", "F1 of unions", "F1, labels shuffled", "values with F1 of 0.6"),
        rows,
        caption=f"Means over values; chosen on training templates, judged on held-out ones. {said}.",
    )


def _diagnostics(section: Mapping[str, Any]) -> Table:
    """Occlusion: an attribute that matters, and that no latent stands for. Over-splitting: many latents for a value."""
    effects = {
        attribute: abs(edits["truth"]["score"] - section["clean"]) for attribute, edits in section["control"].items()
    }
    largest = max(effects.values(), default=0.0)
    rows = []
    for name, attributes in section["detectors"].items():
        for attribute, entry in attributes.items():
            matters = effects[attribute] >= 0.5 * largest
            rows.append(
                (
                    _NAMES[name],
                    attribute,
                    effects[attribute],
                    "yes" if matters and entry["f1"] < 0.5 else "no",
                    entry["latents_per_value"],
                )
            )
    return Table(
        f"Occlusion and over-splitting at {section['section']}",
        ("dictionary", "attribute", "effect of ground truth", "occluded", "pure latents a value"),
        rows,
        caption="Occluded: its edit moves the score at least half as much as the strongest attribute's, and the best "
        "latents have an F1 below 0.5. Pure: at least 90 % of a latent's activations are of one value.",
    )


def _edits_chart(own: Mapping[str, Any]) -> Chart:
    series: dict[str, list[list[float | str]]] = {}
    for attribute, edits in own["control"].items():
        for editor, control in edits.items():
            name, _, budget = editor.partition(" ")
            if budget:
                agreement = control["agreement"]
                point = [float(budget), agreement["value"], agreement["low"], agreement["high"]]
                series.setdefault(f"{attribute}, {_NAMES[name]}", []).append([p for p in point if p is not None])
    return Chart(
        f"Edits with few latents at {own['section']}",
        "latents removed or added at most",
        "agrees with ground-truth patching",
        series,
        log_x=True,
        caption="How many latents it takes to change one attribute of a prompt.",
    )
