"""An experiment's document, put together from what was made one by one: by `run` from its parts, by a person in a
notebook from scores, truths and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from saelab import __version__
from saelab.circuits.anatomy import Anatomy
from saelab.circuits.faithfulness import Curve
from saelab.circuits.findings import Findings, findings
from saelab.circuits.pairs import Competence
from saelab.circuits.parts import SCHEMA
from saelab.circuits.ranking import rank
from saelab.circuits.records import scores_json, scores_of, truth_json
from saelab.circuits.scores import Scores
from saelab.circuits.together import Together
from saelab.circuits.truth import Truth
from saelab.lm.model import LanguageModel

_ROUNDS = 200


def gather(
    lm: LanguageModel,
    task: str,
    known: Competence,
    truths: Mapping[str, Truth],
    methods: Mapping[str, Scores | Sequence[Scores]],
    *,
    curves: Mapping[str, Curve] | None = None,
    random: Sequence[Curve] = (),
    together: Together | None = None,
    circuit: tuple[str, int] | None = None,
) -> Findings:
    """What `run` and `saelab.circuits.findings.read` give, of what was made one by one: for tables, pictures, a page.

    Args:
        truths: by name, the chosen one first; methods: by label, of one seed or of several.
        curves: by label, heads strongest first; random: of random orders.
        circuit: whose circuit is shown, and how many heads it has (None: the first method's, as many as the truth).
    """
    rows = {
        label: [scores_json(one) for one in ([made] if isinstance(made, Scores) else made)]
        for label, made in methods.items()
    }
    shown = circuit or (next(iter(methods)), max(1, int(next(iter(truths.values())).members.sum())))
    every = [*(curves or {}).values(), *random]
    drawn = {
        "ablation": every[0].ablation if every else "",
        "methods": {label: {"strength": asdict(curve)} for label, curve in (curves or {}).items()},
        "random": [asdict(curve) for curve in random],
    }
    made = document(lm, task, asdict(known), truths, rows)
    made |= {"curves": drawn, "together": None if together is None else asdict(together)}
    return findings(made | {"circuit": {"method": shown[0], "heads": shown[1]}}, task)


def document(
    lm: LanguageModel,
    task: str,
    known: Mapping[str, float],
    truths: Mapping[str, Truth],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """What methods said, held against every truth: `saelab/circuits/README.md`, without curves.

    Args:
        known: of `Competence`.
        rows: by label, `scores_json` of each seed.
    """
    anatomy = Anatomy.of(lm)
    return {
        "schema": SCHEMA,
        "saelab": __version__,
        "model": lm.identity,
        "task": task,
        "shape": [anatomy.n_layers, anatomy.n_heads],
        "kv_heads": anatomy.n_kv_heads,
        "prompts": {"truth": None, "curves": None},
        "competence": dict(known),
        "truths": {name: truth_json(truth) for name, truth in truths.items()},
        "methods": {label: {"seeds": [_judged(row, truths) for row in made]} for label, made in rows.items()},
        "curves": {},
        "together": None,
    }


def _judged(row: Mapping[str, Any], truths: Mapping[str, Truth]) -> dict[str, Any]:
    """Scores with their rankings; with intervals at the first truth, the chosen cut-off."""
    scores, first = scores_of(row), next(iter(truths))
    ranked = {name: rank(scores, truth, rounds=_ROUNDS if name == first else 0) for name, truth in truths.items()}
    return {**row, "rankings": {name: asdict(one) for name, one in ranked.items()}}
