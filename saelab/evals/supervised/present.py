"""Records of the comparison as metrics, tables and charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saelab.evals.base import Chart, Result, Table
from saelab.evals.supervised.section import MIN_EFFECT

NAMES = {
    "supervised_mse": "supervised, least squares",
    "supervised_mean": "supervised, means",
    "sae": "this SAE",
    "task_sae": "SAE of the task",
    "truth": "ground truth",
    "none": "no edit",
}
OCCLUDED_SKILL, OCCLUDED_EFFECT = 0.5, 0.5
"""An attribute is occluded where its edit moves the score at least so much of what the strongest one's does, and the
best latents for its values stay below this skill."""

Record = Mapping[str, Any]
Scalar = tuple[str, Mapping[str, Any], str]
"""Name, value (with low and high) and meaning."""


def result(task: str, model: Record, records: Sequence[Record], n_examples: int) -> Result:
    """Metrics are of the first section, where the SAE reads; every section has its tables."""
    own, measured = records[0], [record for record in records if "approximation" in record]
    scalars = [*_of_model(task, model, own), *(_scalars(own) if own in measured else ())]
    intervals = {name: (entry["low"], entry["high"]) for name, entry, _ in scalars if entry.get("low") is not None}
    return Result(
        {name: entry["value"] for name, entry, _ in scalars},
        n_tokens=0,
        n_examples=n_examples,
        intervals=intervals,
        meaning={name: meaning for name, _, meaning in scalars},
        tables=[*([_overview(measured)] if measured else ()), *(t for record in measured for t in _tables(record))],
        charts=[_edits_chart(record) for record in measured if any(_budgets(record))],
        details={"effect_by_position": model["effects"], "sections": list(records)},
        not_measurable=_reasons(records),
    )


def _reasons(records: Sequence[Record]) -> dict[str, str]:
    weak = {
        record["section"]: f"with it at its mean the score changes by {abs(record['effect']):.1%}, less than "
        f"{MIN_EFFECT:.0%}: it holds too little of the task"
        for record in records
        if "approximation" not in record
    }
    missing = {
        f"{NAMES[name]} at {record['section']}": why
        for record in records
        for name, why in record.get("missing", {}).items()
    }
    return weak | missing


def _of_model(task: str, model: Record, own: Record) -> Iterator[Scalar]:
    yield "task_accuracy", {"value": model["accuracy"]}, f"share of '{task}' prompts that the model answers rightly"
    meaning = "by how much it prefers right answers to wrong ones, untouched (nats, or probability)"
    yield "task_score", {"value": model["score"]}, meaning
    meaning = f"share of that lost with {own['section']} at its mean: what is to be explained"
    yield "site_effect", {"value": own["effect"]}, meaning


def _scalars(own: Record) -> Iterator[Scalar]:
    """What the SAE, and the supervised dictionary beside it, come to."""
    says = {
        "sufficiency": "score with {} in place of the activation, as a share of the clean one (1 is perfect)",
        "necessity": "share of the site's effect lost where what {} say is taken away (1: nothing is left)",
    }
    for coder, prefix, what in (
        ("sae", "", "the SAE's reconstructions"),
        ("supervised_mse", "supervised_", "supervised reconstructions"),
    ):
        for axis, sentence in says.items():
            yield f"{prefix}{axis}", own["approximation"][coder][axis], sentence.format(what)
    for attribute, edits in own["control"].items():
        named = {
            "none": ("unedited", "no edit"),
            "supervised_mse": ("supervised_edit", "the supervised edit"),
            **{f"sae {b}": (f"edit_{b}", f"at most {b} latents") for b in _budgets(own)},
        }
        for editor, (name, by) in named.items():
            meaning = f"prompts whose answer is that of ground-truth patching of {attribute}, with {by} (1 is best)"
            yield f"{name}_{attribute}", edits[editor]["agreement"], meaning
    for attribute, entry in own["interpretation"]["sae"]["attributes"].items():
        meaning = f"F1 of the best latent for a value of {attribute}, mean over values, on held-out templates"
        yield f"f1_{attribute}", {"value": entry["f1"]}, meaning


def _budgets(record: Record) -> list[int]:
    """Of sparse edits, rising."""
    edits = next(iter(record["control"].values()))
    return sorted({int(budget) for _, _, budget in map(_split, edits) if budget})


def _split(editor: str) -> tuple[str, str, str]:
    return editor.partition(" ")


def _overview(records: Sequence[Record]) -> Table:
    """A row for each dictionary at each section, which is named once."""
    attributes = list(records[0]["control"])
    rows: list[tuple[str | float | None, ...]] = []
    for record in records:
        budget = max(_budgets(record), default=0)
        where: tuple[str | float | None, ...] = (record["section"], record["effect"])
        for name, entry in record["approximation"].items():
            edits = [record["control"][a].get(name) or record["control"][a][f"{name} {budget}"] for a in attributes]
            label = NAMES[name] if name.startswith("supervised") else f"{NAMES[name]}, {budget} latents"
            agreement = [edit["agreement"]["value"] for edit in edits]
            axes = entry["sufficiency"]["value"], entry["necessity"]["value"]
            rows.append((*where, label, *axes, *agreement))
            where = (None, None)
        none = [record["control"][a]["none"]["agreement"]["value"] for a in attributes]
        rows.append((None, None, "no edit", None, None, *none))
    return Table(
        "Supervised dictionaries and SAEs",
        ("cross-section", "effect", "dictionary", "sufficiency", "necessity", *(f"edits {a}" for a in attributes)),
        rows,
        caption="Effect: share of the score lost with the section at its mean. Sufficiency: score with reconstructions "
        "in place, of the clean one. Necessity: share of the effect lost where they are taken away. Edits: prompts "
        "whose answer is that under ground-truth patching.",
    )


def _tables(record: Record) -> Iterator[Table]:
    where = record["section"]
    yield Table(
        f"Approximation at {where}",
        ("dictionary", "sufficiency", "low", "high", "necessity", "low", "high"),
        [
            (NAMES[name], *(entry[axis][key] for axis in ("sufficiency", "necessity") for key in _NUMBER))
            for name, entry in record["approximation"].items()
        ],
        caption=f"Clean score {record['clean']:.2f}, {record['ablated']:.2f} with the section at its mean.",
    )
    yield Table(
        f"Edits at {where}",
        ("attribute", "edit", "agrees", "low", "high", "very token", "score", "distance", "latents", "weight"),
        [
            (attribute, _edit_name(editor), *_row(control))
            for attribute, edits in record["control"].items()
            for editor, control in edits.items()
        ],
        caption="Agrees: the likeliest answer is that under ground-truth patching; beside it, the likeliest token of "
        "all. Distance to the changed prompt's activations, of that of no edit. Weight: share of what the dictionary "
        "says of the prompt that the removed latents have.",
    )
    if record["interpretation"]:
        yield _detectors(record)
        yield _stand_for(record)
        yield _diagnostics(record)


_NUMBER = ("value", "low", "high")


def _edit_name(editor: str) -> str:
    name, _, budget = _split(editor)
    return f"{NAMES[name]}, {budget} latents" if budget else NAMES[name]


def _row(control: Record) -> tuple[float | None, ...]:
    rest = ("agreement_token", "score", "distance", "latents", "weight")
    return (*(control["agreement"][key] for key in _NUMBER), *(control[key] for key in rest))


def _detectors(record: Record) -> Table:
    keys = ("f1", "skill", "union_f1", "null_f1", "null_skill")
    return Table(
        f"Values found by latents at {record['section']}",
        (
            "dictionary",
            "attribute",
            "F1",
            "above always firing",
            "F1 of unions",
            "F1, shuffled",
            "above, shuffled",
            "found",
        ),
        [
            (NAMES[name], attribute, *(entry[key] for key in keys), f"{entry['detected']} of {entry['values']}")
            for name, said in record["interpretation"].items()
            for attribute, entry in said["attributes"].items()
        ],
        caption="The best latent for each value, mean over values: chosen on training prompts, judged on held-out "
        "templates. F1 above that of a latent that always fires, as a share of what there is above. Found: values with "
        "at least 0.6 of that.",
    )


def _stand_for(record: Record) -> Table:
    kinds = list(next(iter(record["interpretation"].values()))["described"])
    return Table(
        f"Latents that stand for something at {record['section']}",
        ("dictionary", "alive", *kinds, "shuffled", "sufficiency of these alone", "necessity"),
        [
            (
                NAMES[name],
                said["alive"],
                *said["described"].values(),
                said["described_null"],
                said["sufficiency"]["value"],
                said["necessity"]["value"],
            )
            for name, said in record["interpretation"].items()
        ],
        caption="Latents (of signed ones each side) whose F1 for the best of these properties is at least 0.6 above "
        "always firing; and the approximation by these alone, all others at their mean.",
    )


def _diagnostics(record: Record) -> Table:
    effects = {a: abs(edits["truth"]["score"] - record["clean"]) for a, edits in record["control"].items()}
    rows = [
        (
            NAMES[name],
            attribute,
            record["variance"][attribute],
            effects[attribute],
            entry["skill"],
            "yes" if occluded(entry["skill"], effects[attribute], max(effects.values())) else "no",
            entry["pure"],
        )
        for name, said in record["interpretation"].items()
        for attribute, entry in said["attributes"].items()
    ]
    return Table(
        f"Occlusion and over-splitting at {record['section']}",
        ("dictionary", "attribute", "share of variance", "effect", "best latents", "occluded", "pure latents a value"),
        rows,
        caption="Occluded: ground-truth patching moves the score at least half as much as that of the strongest "
        "attribute, and the best latents stay below 0.5 (F1 above always firing). Pure: at least 90 % of a latent's "
        "activations are of one value; many of them for a value is over-splitting.",
    )


def occluded(skill: float, effect: float, largest: float) -> bool:
    return effect >= OCCLUDED_EFFECT * largest and skill < OCCLUDED_SKILL


def _edits_chart(record: Record) -> Chart:
    series: dict[str, list[list[float | str]]] = {}
    for attribute, edits in record["control"].items():
        for editor, control in edits.items():
            name, _, budget = _split(editor)
            if budget:
                point = [float(budget), *(control["agreement"][key] for key in _NUMBER)]
                series.setdefault(f"{attribute}, {NAMES[name]}", []).append([p for p in point if p is not None])
    return Chart(
        f"Edits with few latents at {record['section']}",
        "latents removed or added at most",
        "agrees with ground-truth patching",
        series,
        log_x=True,
        caption="How many latents it takes to change one attribute of a prompt.",
    )
