"""Sparse probing: how much of a concept can be read off a few latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab.errors import check_least, check_seed
from saelab.evals import probes
from saelab.evals.base import Chart, Result, Subject, Table
from saelab.evals.labelled import Seen, check_concepts, mean_of, measured, problems, seen
from saelab.evals.probes import Floats
from saelab.sae import SparseCode

RAW, DIM, NULL = "raw", "dim", "null"
"""Readers beside the sparse ones: a probe on all of the activation, its difference in means, and shuffled labels."""


@dataclass(frozen=True)
class Probing:
    """Logistic regressions on the k latents whose means differ most between a class and the rest (Gurnee et al.,
    2305.01610; SAEBench), against a probe on the raw activations and their difference in means.

    Each class is asked for against all others, and questions of a concept are averaged. Accuracies are means of the
    two sides' own, so that chance, and always guessing the majority, are 0.5 whatever the classes' sizes. Latents are
    chosen, columns standardised and probes fitted on train examples, and all is measured on test examples; intervals
    are bootstrapped over their contexts. The null chooses and fits the most latents after shuffling the labels.

    Unlike SAEBench, one token's code is read instead of a mean over text, and the concepts are `saelab.tasks`'.
    """

    concepts: Annotated[tuple[str, ...] | None, "by name (none: all there are)"] = None
    examples: Annotated[int, "labelled tokens of each concept, train and test together"] = 1000
    k: Annotated[tuple[int, ...], "how many latents a sparse probe reads"] = (1, 2, 5, 20)
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of examples, shuffled labels and the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_concepts(self.concepts)
        check_least(self, 1, "examples", "k", "bootstrap_rounds")
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        def measure(name: str) -> dict[str, Any]:
            found = seen(subject, name, self.examples, self.seed)
            return self.concept(found, subject.sae.encode(found.x.to(subject.sae.W_dec)))

        found, reasons = measured(subject, self.concepts, measure)
        return self._result(found, reasons)

    def concept(self, found: Seen, code: SparseCode) -> dict[str, Any]:
        """Accuracy with its interval and AUC of every reader, and the latents that were chosen, JSON-able.

        Raises:
            NotMeasurable: too few examples.
        """
        concept, asked = found.concept, problems(found.concept)
        answered: dict[str, list[_Answered]] = {}
        for positive in asked.values():
            for reader, scores, truth in readings(found.x, code, positive, ~concept.test, self.k, self.seed):
                rows = concept.test.numpy()
                answered.setdefault(reader, []).append(_Answered(scores[rows], truth.numpy()[rows]))
        return {
            "train": int((~concept.test).sum()),
            "test": int(concept.test.sum()),
            "readers": {
                reader: self._reader(questions, concept.context[concept.test].numpy())
                for reader, questions in answered.items()
            },
            "latents": {
                name: chosen_latents(code, positive, ~concept.test, max(self.k)).tolist()
                for name, positive in asked.items()
            },
        }

    def _reader(self, questions: list[_Answered], context: NDArray[np.int64]) -> dict[str, float]:
        correct = np.stack([one.correct for one in questions])
        groups = np.stack([one.truth for one in questions]).astype(np.int64)
        value = float(np.mean([probes.accuracy(c, g) for c, g in zip(correct, groups, strict=True)]))
        found = probes.accuracy_interval(correct, groups, context, seed=self.seed, rounds=self.bootstrap_rounds)
        low, high = found or (value, value)
        aucs = [probes.auc(one.scores, one.truth) for one in questions]
        return {"accuracy": value, "low": low, "high": high, "auc": float(np.mean(aucs))}

    def _result(self, found: dict[str, Any], reasons: dict[str, str]) -> Result:
        readers = [*(_sparse(k) for k in self.k), RAW, DIM, NULL]
        metrics: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        for reader in readers:
            name = f"probing_{reader}_accuracy"
            rows = {concept: part["readers"][reader] for concept, part in found.items()}
            metrics[name], intervals[name] = mean_of(
                {concept: (row["accuracy"], row["low"], row["high"]) for concept, row in rows.items()}
            )
            metrics[f"probing_{reader}_auc"] = sum(row["auc"] for row in rows.values()) / len(rows)
        return Result(
            metrics,
            n_tokens=0,
            n_examples=sum(part["test"] for part in found.values()),
            intervals=intervals,
            meaning={name: _meaning(name) for name in metrics},
            tables=[_table("accuracy", found, readers), _table("auc", found, readers), _latents(found)],
            charts=[self._chart(metrics, intervals)],
            not_measurable=reasons,
        )

    def _chart(self, metrics: dict[str, float], intervals: dict[str, tuple[float, float]]) -> Chart:
        names = {k: f"probing_{_sparse(k)}_accuracy" for k in sorted(self.k)}
        series: dict[str, list[list[float | str]]] = {
            "k latents": [[k, metrics[name], *intervals[name]] for k, name in names.items()]
        }
        for label, reader in (("raw activations", RAW), ("difference in means", DIM), ("shuffled labels", NULL)):
            series[label] = [[k, metrics[f"probing_{reader}_accuracy"]] for k in (min(names), max(names))]
        return Chart(
            "Sparse probing",
            "latents read (k)",
            "balanced test accuracy",
            series,
            log_x=True,
            caption="How much of the concepts a few latents say, against all that the activation says.",
        )


@dataclass(frozen=True, eq=False)
class _Answered:
    """One question on test examples."""

    scores: Floats
    truth: NDArray[np.bool_]

    @property
    def correct(self) -> NDArray[np.bool_]:
        return (self.scores > 0) == self.truth


def readings(
    x: Tensor, code: SparseCode, positive: Tensor, train: Tensor, ks: tuple[int, ...], seed: int
) -> Iterator[tuple[str, Floats, Tensor]]:
    """By reader: `[example]` scores, above 0 for yes, and the labels it was fitted to (shuffled ones for the null).

    Args:
        x: `[example, d]`; code: of the same examples; positive, train: `[example]` bool.
    """

    rows = train.numpy()

    def sparse(k: int, positive: Tensor) -> Floats:
        read = probes.columns(code, chosen_latents(code, positive, train, k))
        return probes.logistic(read[rows], positive.numpy()[rows]).scores(read)

    for k in ks:
        yield _sparse(k), sparse(k, positive), positive
    dense, target = x.double().numpy(), positive.numpy()[rows]
    yield RAW, probes.logistic(dense[rows], target).scores(dense), positive
    yield DIM, probes.difference_in_means(dense[rows], target).scores(dense), positive
    shuffled = _shuffled(positive, train, seed)
    yield NULL, sparse(max(ks), shuffled), shuffled


def chosen_latents(code: SparseCode, positive: Tensor, among: Tensor, k: int) -> Tensor:
    """The k latents with the largest |mean on positive examples - mean on the others|, the largest first."""
    return probes.strongest(probes.latent_sums(code, probes.contrast(positive, among)).abs(), k)


def _shuffled(positive: Tensor, train: Tensor, seed: int) -> Tensor:
    """Within train and within test, so that both keep their shares."""
    generator = torch.Generator().manual_seed(seed)
    out = positive.clone()
    for side in (train, ~train):
        values = positive[side]
        out[side] = values[torch.randperm(len(values), generator=generator)]
    return out


def _sparse(k: int) -> str:
    return f"k{k}"


def _meaning(name: str) -> str:
    _, reader, measure = name.split("_")
    who = {
        RAW: "A logistic regression on the raw activation",
        DIM: "The raw activations' difference in means",
        NULL: "As many latents as are ever read, chosen for and fitted to shuffled labels",
    }.get(reader, f"A logistic regression on {reader[1:]} latents")
    what = "AUC" if measure == "auc" else "accuracy, both sides of a question counting alike"
    direction = "0.5 is expected; anything else is noise" if reader == NULL else "higher is better, 0.5 is chance"
    return f"{who}: {what} on test examples, mean over concepts; {direction}."


def _table(measure: str, found: dict[str, Any], readers: list[str]) -> Table:
    rows = [
        [concept, len(part["latents"]), part["train"], part["test"], *(part["readers"][r][measure] for r in readers)]
        for concept, part in found.items()
    ]
    title = {"accuracy": "Probing: balanced test accuracy", "auc": "Probing: AUC"}[measure]
    caption = "kN: N latents; raw: the whole activation; dim: its difference in means; null: shuffled labels."
    return Table(title, ["concept", "questions", "train", "test", *readers], rows, caption)


def _latents(found: dict[str, Any]) -> Table:
    rows = [
        [concept, name, ", ".join(map(str, latents[:5]))]
        for concept, part in found.items()
        for name, latents in part["latents"].items()
    ]
    return Table(
        "Probing: latents chosen", ["concept", "class", "latents"], rows, "The first five by difference of means."
    )
