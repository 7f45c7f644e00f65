"""Targeted erasure: does ablating the latents of one concept remove it, and it alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from saelab.errors import check_least, check_seed
from saelab.evals.ablation import Bools, Examples, Question, Shortcut, perturb
from saelab.evals.base import Chart, NotMeasurable, Result, Subject, Table
from saelab.evals.labelled import MIN_EXAMPLES, check_concepts, mean_of, measured, problems, seen
from saelab.sae import SparseCode
from saelab.sae.model import concatenate
from saelab.tasks import Labelled

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""By what was ablated, a row for each number of latents."""

MIN_GAP = 0.001
"""A biased probe this close to the clean one leaves nothing to repair (SAEBench's bound)."""
PAIRS = "concepts of two classes"
"""TPP over these together: of one such concept alone it is 0, both its probes being the same."""


@dataclass(frozen=True)
class Erasure:
    """Targeted probe perturbation and spurious correlation removal (SAEBench, 2503.09532; SCR after SHIFT, 2403.19647):
    a concept's latents are set to 0, what the SAE leaves unexplained stays, and probes of the activations are judged
    again on test examples.

        TPP = mean_i [ drop_i(ablate i) - mean_{j != i} drop_j(ablate i) ],   drop: accuracy before - after
        SCR = (accuracy_ablated - accuracy_biased) / (accuracy_clean - accuracy_biased)

    A latent's effect on a probe w is its difference in means over the class times w . d: for TPP the largest positive
    ones of latents that are more active on the class, for SCR the largest in size. TPP is taken over the classes of a
    concept that has three or more, and over all concepts of two classes together. SCR wants a concept of two classes
    with a second label of two: a probe for the one is trained where both agree, and the latents of the other are
    ablated; of the two ways round, the one whose biased probe is worse counts. Random firing latents are the control.

    Deviations from SAEBench: one token's activation instead of a mean over text; other concepts and numbers of
    examples; accuracies count classes (SCR: the four cells) alike; "more active" is by |z|, so that signed codes have
    a meaning; a latent without a positive effect is never ablated.
    """

    concepts: Annotated[tuple[str, ...] | None, "by name (none: all there are)"] = None
    examples: Annotated[int, "labelled tokens of each concept, train and test together"] = 1000
    latents: Annotated[tuple[int, ...], "how many are ablated"] = (2, 5, 10, 20, 50, 100, 500)
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of examples, random latents and the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_concepts(self.concepts)
        check_least(self, 1, "examples", "latents", "bootstrap_rounds")
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        if subject.target != subject.hook:
            raise NotMeasurable("a transcoder's latents are written to another hook than the one that is probed")

        def measure(name: str) -> dict[str, Any]:
            concept, on = self._examples(subject, name)
            questions = [Question.of(on, positive.numpy()) for positive in problems(concept).values()]
            tpp = {"tpp": self.tpp(questions, on.code)} if len(questions) > 2 else {}
            return {"test": int(on.test.sum()), "classes": len(concept.classes), **tpp, **self.scr(concept, on)}

        def together(names: Sequence[str]) -> list[dict[str, float]]:
            every = [self._examples(subject, name, number) for number, name in enumerate(names)]
            questions = [Question.of(on, concept.is_class(1).numpy()) for concept, on in every]
            return self.tpp(questions, concatenate([on.code for _, on in every]))

        found, reasons = measured(subject, self.concepts, measure)
        tpp = {name: part["tpp"] for name, part in found.items() if "tpp" in part}
        pairs = [name for name, part in found.items() if part["classes"] == 2]
        if len(pairs) > 1:
            tpp[PAIRS] = subject.part(PAIRS, lambda: together(pairs))
        scr = {f"{name}, {label}": rows for name, part in found.items() for label, rows in part["scr"].items()}
        for name, part in found.items():
            reasons |= {f"SCR of {name}, {label}": why for label, why in part["no_scr"].items()}
        return self._result(tpp, scr, sum(part["test"] for part in found.values()), reasons)

    def _examples(self, subject: Subject, name: str, number: int = 0) -> tuple[Labelled, Examples]:
        """`number`: of the concept, where several are put together."""
        found = seen(subject, name, self.examples, self.seed)
        code = subject.sae.encode(found.x.to(subject.sae.W_dec))
        unit = found.concept.context.numpy() + (number << 32)
        test = found.concept.test.numpy()
        return found.concept, Examples(found.x.double().numpy(), code, subject.sae.W_dec, test, unit)

    def tpp(self, questions: Sequence[Question], code: SparseCode) -> list[dict[str, float]]:
        """A row for each number of latents, with the same of random ones that fire in `code`; JSON-able."""
        draw, rows = _Firing.of(code, self.seed), []
        for n in self.latents:
            found, null = (
                perturb(questions, ablated, seed=self.seed, rounds=rounds)
                for ablated, rounds in (
                    ([question.ablated(n) for question in questions], self.bootstrap_rounds),
                    ([draw(n) for _ in questions], 1),
                )
            )
            rows.append({"n": n, **asdict(found), "random": null.tpp})
        return rows

    def scr(self, concept: Labelled, on: Examples) -> dict[str, Any]:
        """By second label, `scr`: a row for each number of latents; and why there are none, `no_scr`. JSON-able."""
        found: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        if len(concept.classes) == 2:
            for label, (values, other) in concept.others.items():
                try:
                    if len(values) != 2:
                        raise NotMeasurable(f"it has {len(values)} values instead of two")
                    found[label] = self._shortcut(on, concept.is_class(1).numpy(), (other == 1).numpy())
                except NotMeasurable as reason:
                    reasons[label] = reason.message
        return {"scr": found, "no_scr": reasons}

    def _shortcut(self, on: Examples, first: Bools, second: Bools) -> list[dict[str, Any]]:
        cells = first.astype(np.int64) * 2 + second
        least = min(int((cells[side] == cell).sum()) for side in (on.test, ~on.test) for cell in range(4))
        if least < MIN_EXAMPLES:
            raise NotMeasurable(f"one of the four cells has {least} examples in train or in test")
        ways = [Shortcut.of(on, first, second), Shortcut.of(on, second, first)]
        worse = min(range(2), key=lambda way: ways[way].biased.accuracy())
        shortcut, draw = ways[worse], _Firing.of(on.code, self.seed)
        if shortcut.gap < MIN_GAP:
            raise NotMeasurable(f"the biased probe is within {MIN_GAP} of the clean one: nothing to repair")
        asked = ("the concept", "the second label")[worse]
        return [{"asked": asked, **self._repair(shortcut, draw, n)} for n in self.latents]

    def _repair(self, shortcut: Shortcut, draw: _Firing, n: int) -> dict[str, Any]:
        ablated = shortcut.ablated(n)
        value = shortcut.repaired(ablated)
        low, high = shortcut.interval(ablated, seed=self.seed, rounds=self.bootstrap_rounds) or (value, value)
        accuracies = {
            "biased": shortcut.biased.accuracy(),
            "clean": shortcut.clean.accuracy(),
            "ablated": shortcut.biased.accuracy(ablated),
        }
        return {"n": n, "scr": value, "low": low, "high": high, **accuracies, "random": shortcut.repaired(draw(n))}

    def _result(self, tpp: Rows, scr: Rows, examples: int, reasons: dict[str, str]) -> Result:
        metrics: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        charts: list[Chart] = []
        for kind, families in (("tpp", tpp), ("scr", scr)):
            if not families:
                reasons[kind] = _WANTED[kind]
                continue
            for at, n in enumerate(self.latents):
                rows = {name: family[at] for name, family in families.items()}
                name = f"{kind}_n{n}"
                metrics[name], intervals[name] = mean_of(
                    {key: (row[kind], row["low"], row["high"]) for key, row in rows.items()}
                )
            charts.append(_chart(kind, families, metrics, intervals))
        tables = [_table(kind, families) for kind, families in (("tpp", tpp), ("scr", scr)) if families]
        meaning = {name: _MEANING[name[:3]].format(n=name[5:]) for name in metrics}
        return Result(
            metrics,
            n_tokens=0,
            n_examples=examples,
            intervals=intervals,
            meaning=meaning,
            tables=tables,
            charts=charts,
            not_measurable=reasons,
        )


@dataclass(frozen=True, eq=False)
class _Firing:
    """Draws random latents of those that fire."""

    latents: Tensor
    generator: torch.Generator

    @classmethod
    def of(cls, code: SparseCode, seed: int) -> _Firing:
        return cls(code.firing_counts().nonzero()[:, 0].cpu(), torch.Generator().manual_seed(seed))

    def __call__(self, n: int) -> Tensor:
        return self.latents[torch.randperm(len(self.latents), generator=self.generator)[:n]]


_WANTED = {
    "tpp": "it takes a concept of three classes, or two concepts of two",
    "scr": "it takes a concept of two classes with a second label of two whose biased probe can be repaired",
}
_MEANING = {
    "tpp": "TPP: accuracy that probes lose when the {n} latents of their own class are ablated, beyond what they lose "
    "by those of other classes; higher is better, 0 is random.",
    "scr": "SCR: share of a biased probe's lost accuracy that ablating {n} latents of the spurious concept restores; "
    "higher is better, 1 is all, below 0 makes it worse.",
}
_COLUMNS = {
    "tpp": ("n", "targeted", "others", "tpp", "low", "high", "random"),
    "scr": ("asked", "n", "biased", "clean", "ablated", "scr", "low", "high", "random"),
}
_CAPTIONS = {
    "tpp": "targeted, others: accuracy lost by the class whose latents are ablated, and by the others.",
    "scr": "Accuracies over the four cells alike: of the biased probe, of the clean one, and of the biased one with "
    "latents ablated. random: SCR of as many random firing latents.",
}


def _table(kind: str, families: Rows) -> Table:
    rows = [[name, *(row[key] for key in _COLUMNS[kind])] for name, family in families.items() for row in family]
    return Table(f"{kind.upper()} by latents ablated", ["of", *_COLUMNS[kind]], rows, _CAPTIONS[kind])


def _chart(kind: str, families: Rows, metrics: dict[str, float], intervals: dict[str, tuple[float, float]]) -> Chart:
    series: dict[str, list[list[float | str]]] = {"mean": []}
    for row in next(iter(families.values())):
        name = f"{kind}_n{row['n']}"
        series["mean"].append([row["n"], metrics[name], *intervals[name]])
    for name, family in families.items():
        series[name] = [[row["n"], row[kind]] for row in family]
    random = zip(*([row["random"] for row in family] for family in families.values()), strict=True)
    series["random latents"] = [
        [point[0], sum(values) / len(values)] for point, values in zip(series["mean"], random, strict=True)
    ]
    title, y = f"{kind.upper()} by latents ablated", kind.upper()
    return Chart(title, "latents ablated", y, series, log_x=True, caption=_MEANING[kind].format(n="n"))
