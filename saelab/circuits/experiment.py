"""Tasks, methods and seeds on one model: a table of what each method is worth, made part by part.

A part is what takes long and can be kept: one method with one seed, some prompts of the ground truth, one curve. Parts
are written to a file as they are made; the same experiment goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.circuits import faithfulness as faith
from saelab.circuits.gathering import document
from saelab.circuits.pairs import Pairs, competence, draw
from saelab.circuits.parts import Parts
from saelab.circuits.patching import ActivationPatching
from saelab.circuits.plan import Plan
from saelab.circuits.records import read_edges, rounded, scores_json, scores_of, write_edges
from saelab.circuits.scores import Cost, Edges, Report, Scores, quiet
from saelab.circuits.together import ablate_together, output_norms
from saelab.circuits.truth import by_patching, published
from saelab.lm.model import LanguageModel

TRUTH_SEED, CURVE_SEED = 50_000, 60_000
"""Of prompts for the ground truth and for faithfulness: of the test split, so that no method sees their templates."""
_AT_ONCE = 16

Tell = Callable[[str, int, int], None]
"""Called with (what, done, total) while working."""


def silent(what: str, done: int, total: int) -> None:
    """No report."""


def run(
    lm: LanguageModel, plan: Plan, parts: Path, tell: Tell = silent, stamp: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run a plan, keeping parts in a file, and return what came out: JSON-able, see `saelab/circuits/README.md`.

    Args:
        stamp: what makes parts now; see `Parts`.

    Raises:
        SaelabError: the model does not do the task (with the accuracy).
    """
    return _Experiment(lm, plan, Parts(parts, lm, stamp), tell).document()


def first_edges(lm: LanguageModel, plan: Plan, parts: Path) -> dict[str, Edges]:
    """All edges by the first seed, of methods that have them, by label: kept by `run` beside its parts, of which its
    document has the strongest alone."""
    experiment = _Experiment(lm, plan, Parts(parts, lm), silent)
    files = {label: experiment.edges_file(label) for label in plan.entries}
    return {label: read_edges(path) for label, path in files.items() if path.exists()}


@dataclass(frozen=True, eq=False)
class _Experiment:
    lm: LanguageModel
    plan: Plan
    parts: Parts
    tell: Tell

    def document(self) -> dict[str, Any]:
        plan = self.plan
        self.parts.expect(
            plan.task, {label: [self.at(label, seed) for seed in range(plan.seeds)] for label in plan.entries}
        )
        known = self.competence
        exact = self.exact
        by_cut_off = by_patching(exact, known["clean"] - known["corrupted"], plan.cut_offs)
        truths = {f"{cut_off:g}": truth for cut_off, truth in by_cut_off.items()}
        truths |= {truth.source: truth for truth in published(self.lm, plan.task)}
        found = {label: self.scores(label) for label in plan.entries}
        made = document(self.lm, plan.task, known, truths, found)
        made |= {
            "prompts": {"truth": plan.truth_prompts, "curves": plan.curve_prompts},
            "curves": self.curves({label: scores_of(found[label][0]) for label in plan.curves}),
            "together": self.together(exact) if plan.together else None,
        }
        return made | {"made": self.parts.stamps()}

    def part(self, name: str, settings: Any, make: Callable[[], Any]) -> Any:
        return self.parts.part(f"{self.plan.task}/{name}", settings, make)

    def at(self, label: str, seed: int) -> tuple[str, Any]:
        """The name and the settings of a method's part; its scores depend on nothing besides, so that what is not set
        is part of the settings too."""
        entry = self.plan.entries[label]
        settings = [entry.method, entry.prompts, asdict(entry.build(seed=0))]
        return f"{self.plan.task}/{entry.method}/seed{seed}", settings

    @cached_property
    def truth_pairs(self) -> Pairs:
        return draw(self.plan.task, self.plan.truth_prompts, "test", TRUTH_SEED, self.lm)

    @cached_property
    def competence(self) -> dict[str, float]:
        least = self.plan.at_least
        settings = [self.plan.truth_prompts, least]
        return self.part("competence", settings, lambda: asdict(competence(self.lm, self.truth_pairs, least)))

    @cached_property
    def exact(self) -> Scores:
        """Exact patching of the truth's pairs, some at a time."""
        chunks = torch.arange(len(self.truth_pairs)).split(_AT_ONCE)
        made = [
            self.part(f"truth/{number}", [self.plan.truth_prompts], partial(self._patched, number, chunks))
            for number in range(len(chunks))
        ]
        samples = torch.cat([torch.tensor(values) for values in made])
        return Scores("patching", samples.mean(0), Cost(), True, samples=samples)

    def _patched(self, number: int, chunks: tuple[Tensor, ...]) -> list[Any]:
        def report(done: int, total: int) -> None:
            self.tell("exact patching", number * total + done, len(chunks) * total)

        scores = ActivationPatching(batch_prompts=_AT_ONCE)(self.lm, self.truth_pairs.take(chunks[number]), report)
        assert scores.samples is not None
        return rounded(scores.samples)

    def scores(self, label: str) -> list[dict[str, Any]]:
        """What a method says with each seed."""
        entry = self.plan.entries[label]

        def make(seed: int) -> dict[str, Any]:
            pairs = draw(self.plan.task, entry.prompts, "train", seed, self.lm)
            scores = entry.build(seed)(self.lm, pairs, partial(self.tell, f"{label}, seed {seed}"))
            if seed == 0 and scores.edges is not None:
                write_edges(self.edges_file(label), scores.edges)
            return scores_json(scores)

        def whole(seed: int, made: dict[str, Any]) -> bool:
            return seed > 0 or "edges" not in made or self.edges_file(label).exists()

        return [
            self.parts.part(*self.at(label, seed), partial(make, seed), partial(whole, seed))
            for seed in range(self.plan.seeds)
        ]

    def edges_file(self, label: str) -> Path:
        """Where a method's edges are, by the first seed."""
        return self.parts.tensors(*self.at(label, seed=0))

    @cached_property
    def curve_pairs(self) -> Pairs:
        return draw(self.plan.task, self.plan.curve_prompts, "test", CURVE_SEED, self.lm)

    @cached_property
    def circuits(self) -> faith.Circuits:
        return faith.Circuits(self.lm, self.curve_pairs, self.plan.ablation)

    def curves(self, chosen: Mapping[str, Scores]) -> dict[str, Any]:
        """Faithfulness of methods, by strength and, where they have signs, the most helpful heads first; and of random
        orders."""
        if not chosen:
            return {}
        plan, methods = self.plan, dict[str, Any]()
        for label, scores in chosen.items():
            orders = {"strength": faith.order_of(scores)}
            if scores.signed:
                orders["signed"] = faith.order_of(scores, signed=True)
            methods[label] = {
                kind: self.curve(scores.method, order, partial(self.tell, f"curve of {label}"))
                for kind, order in orders.items()
            }
        layers, heads = next(iter(chosen.values())).heads.shape
        orders = faith.random_orders((layers, heads), plan.random_orders, seed=0)
        random: list[Any] = []
        for number, order in enumerate(orders):
            self.tell("random circuits", number, len(orders))
            random.append(self.curve("random", order, rounds=0, complement=False))
        return {"ablation": plan.ablation, "methods": methods, "random": random}

    def curve(self, name: str, order: Tensor, report: Report = quiet, **settings: Any) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            return asdict(faith.curve(self.circuits, order, report=report, **settings))

        return self.part(f"curve/{name}", [self.plan.curve_prompts, self.plan.ablation, order.tolist()], make)

    def together(self, exact: Scores) -> dict[str, Any]:
        """The heads whose patching loses most, ablated together on prompts apart from those that found them."""
        plan = self.plan
        helping = [head for head in exact.strongest() if exact.heads[head] > 0]
        heads = helping[: plan.together]

        def make() -> dict[str, Any]:
            self.tell("ablated together", 0, 1)
            norms = output_norms(self.lm, self.curve_pairs)
            return asdict(ablate_together(self.circuits, heads, norms, plan.sets, seed=0))

        return self.part("together", [plan.curve_prompts, plan.ablation, plan.sets, heads], make)
