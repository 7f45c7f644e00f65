"""Bidirectional concepts: does one signed latent tell both poles (the claim of AbsTopK, 2510.00404)?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from saelab.errors import check_least, check_seed
from saelab.evals import probes
from saelab.evals.base import Chart, NotMeasurable, Result, Subject, Table
from saelab.evals.labelled import Seen, check_concepts, mean_of, measured, problems, seen
from saelab.evals.probes import Floats, Groups
from saelab.sae import SparseCode

Bools = NDArray[np.bool_]
READERS = {
    "one": "The best latent, cut where it tells most training examples apart",
    "two": "The best pair of latents: the sum of both, each oriented and in units of its own deviation",
    "sign": "The sign of the best latent, where 0 is wrong on both sides: what one direction says without a cut",
    "dim": "The raw activations' difference in means",
    "random": "The best of as many random directions of the raw activation",
    "null": "The best latent by shuffled labels",
}


@dataclass(frozen=True)
class Bidirectional:
    """How well the best latent, and the best two, tell the two poles of a concept apart.

    Of the latents whose means differ most between the poles (in units of their deviation), the first `candidates` are
    tried alone, and as many pairs of the very first: so many trials, whether an SAE's codes are signed or not and
    whatever its size. The best one is chosen, turned and cut on train examples, and measured on test examples, which
    have other words in other sentences. A non-negative latent stands for one pole, and its silence for the other; so
    two are its fair answer to one signed latent. `sign` asks for more: that the latent be active on both poles.

    Accuracies are means of the two poles' own: chance is 0.5. Intervals are bootstrapped over test examples.
    """

    concepts: Annotated[tuple[str, ...], "by name; their classes must be poles"] = ("gender", "number", "sentiment")
    examples: Annotated[int, "labelled tokens of each concept, train and test together"] = 600
    candidates: Annotated[int, "latents tried alone, pairs tried, and random directions"] = 120
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of examples, random directions, shuffled labels and the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_concepts(self.concepts)
        check_least(self, 1, "examples", "candidates", "bootstrap_rounds")
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        def measure(name: str) -> dict[str, Any]:
            found = seen(subject, name, self.examples, self.seed)
            return self.concept(found, subject.sae.encode(found.x.to(subject.sae.W_dec)))

        found, reasons = measured(subject, self.concepts, measure)
        return self._result(found, reasons)

    def concept(self, found: Seen, code: SparseCode) -> dict[str, Any]:
        """What each reader says, JSON-able.

        Raises:
            NotMeasurable: its classes are no poles, there are too few examples, or no latent differs between them.
        """
        concept = found.concept
        if not concept.bidirectional:
            raise NotMeasurable("its classes are no poles of one direction")
        (positive,) = (one.numpy() for one in problems(concept).values())
        train, rng = ~concept.test.numpy(), np.random.default_rng(self.seed)
        shuffled = positive.copy()
        shuffled[train] = rng.permutation(positive[train])
        x = found.x.double().numpy()
        directions = rng.standard_normal((x.shape[1], self.candidates))
        latents, columns = self._oriented(code, positive, train)
        first, second = pairs(columns.shape[1], self.candidates)
        one = best_column(columns, positive, train)
        two = best_column(columns[:, first] + columns[:, second], positive, train)
        probe = probes.difference_in_means(x[train], positive[train])
        null = best_column(self._oriented(code, shuffled, train)[1], shuffled, train)
        random = best_column(_turned(x @ directions, positive & train, ~positive & train), positive, train)
        values = columns[:, one.column]
        readings = {
            "one": one.margins,
            "two": two.margins,
            "sign": np.where(values == 0, np.nan, values),
            "dim": probe.scores(x),
            "random": random.margins,
            "null": null.margins,
        }
        return {
            "train": int(train.sum()),
            "test": int((~train).sum()),
            "signed": bool((code.values < 0).any()),
            "one": latents[one.column],
            "two": [latents[first[two.column]], latents[second[two.column]]],
            "active": float((values[~train] != 0).mean()),
            "readers": {
                name: self._reader(margins[~train], positive[~train], concept.context[concept.test].numpy())
                for name, margins in readings.items()
            },
        }

    def _oriented(self, code: SparseCode, positive: Bools, train: Bools) -> tuple[list[int], Floats]:
        """The candidates and their values `[example, candidate]`, in units of their deviation, higher on the positive
        pole; the most different first."""
        seen_here, among = torch.from_numpy(positive), torch.from_numpy(train)
        differences = probes.latent_sums(code, probes.contrast(seen_here, among))
        share = among.double() / among.sum()
        squares = probes.latent_sums(code.with_values(code.values.double() ** 2), share)
        deviation = (squares - probes.latent_sums(code, share) ** 2).clamp(min=0).sqrt()
        effect = torch.where(deviation > 0, differences / deviation, 0.0)
        chosen = probes.strongest(effect.abs(), min(self.candidates, int((effect != 0).sum())))
        if not len(chosen):
            raise NotMeasurable("no latent is active on one pole more than on the other")
        return chosen.tolist(), probes.columns(code, chosen) * (effect[chosen].sign() / deviation[chosen]).numpy()

    def _reader(self, margins: Floats, positive: Bools, context: NDArray[np.int64]) -> dict[str, float]:
        correct = np.where(positive, margins > 0, margins < 0)
        groups: Groups = positive.astype(np.int64)
        value = probes.accuracy(correct, groups)
        low, high = probes.accuracy_interval(
            correct[None], groups[None], context, seed=self.seed, rounds=self.bootstrap_rounds
        ) or (value, value)
        return {"accuracy": value, "low": low, "high": high, "auc": probes.auc(np.nan_to_num(margins), positive)}

    def _result(self, found: dict[str, Any], reasons: dict[str, str]) -> Result:
        metrics: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        for reader in READERS:
            rows = {concept: part["readers"][reader] for concept, part in found.items()}
            name = f"bidirectional_{reader}_accuracy"
            metrics[name], intervals[name] = mean_of(
                {concept: (row["accuracy"], row["low"], row["high"]) for concept, row in rows.items()}
            )
        return Result(
            metrics,
            n_tokens=0,
            n_examples=sum(part["test"] for part in found.values()),
            intervals=intervals,
            meaning={f"bidirectional_{reader}_accuracy": _meaning(reader) for reader in READERS},
            tables=[_table(found)],
            charts=[_chart(found)],
            details={"signed": any(part["signed"] for part in found.values()), "candidates": self.candidates},
            not_measurable=reasons,
        )


@dataclass(frozen=True, eq=False)
class Best:
    """The column of several that tells most training examples apart, and each example's distance above the cut."""

    column: int
    margins: Floats


def best_column(columns: Floats, positive: Bools, train: Bools) -> Best:
    """Of `[example, column]`, the first of the best, each higher on the positive pole."""
    cuts, accuracy = best_cuts(columns[train], positive[train])
    column = int(accuracy.argmax())
    return Best(column, columns[:, column] - cuts[column])


def best_cuts(columns: Floats, positive: Bools) -> tuple[Floats, Floats]:
    """Each column's cut, half-way between two values, above which most are positive, and the mean of both poles'
    accuracies there; `[column]` each. A column that does not vary has no cut and accuracy 0."""
    order = columns.argsort(0, kind="stable")
    values, truth = np.take_along_axis(columns, order, 0), positive[order]
    missed, left = truth.cumsum(0) / positive.sum(), (~truth).cumsum(0) / (~positive).sum()
    accuracy = np.where(values[:-1] < values[1:], (1 - missed + left)[:-1] / 2, 0.0)
    best = accuracy.argmax(0)[None]
    low, high = np.take_along_axis(values, best, 0)[0], np.take_along_axis(values, best + 1, 0)[0]
    return (low + high) / 2, np.take_along_axis(accuracy, best, 0)[0]


def pairs(count: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first pairs of `count` columns, those of the very first columns first; of one column, it with itself."""
    every = ((first, second) for second in range(count) for first in range(second))
    first, second = np.array(list(islice(every, wanted)) or [(0, 0)]).T
    return first, second


def _turned(columns: Floats, positive: Bools, negative: Bools) -> Floats:
    """Each column so that its mean is higher on the positive pole."""
    return columns * np.sign(columns[positive].mean(0) - columns[negative].mean(0))


def _meaning(reader: str) -> str:
    direction = "0.5 is expected; anything else is noise" if reader == "null" else "higher is better, 0.5 is chance"
    return f"{READERS[reader]}: test accuracy, both poles counting alike, mean over concepts; {direction}."


def _table(found: dict[str, Any]) -> Table:
    rows = [
        [
            *(concept, part["train"], part["test"]),
            *(part["readers"][reader]["accuracy"] for reader in READERS),
            *(part["readers"][reader]["auc"] for reader in ("one", "two")),
            *(part["active"], str(part["one"]), ", ".join(map(str, part["two"]))),
        ]
        for concept, part in found.items()
    ]
    return Table(
        "Two poles: test accuracy",
        ["concept", "train", "test", *READERS, "one: AUC", "two: AUC", "one: active", "one: latent", "two: latents"],
        rows,
        "; ".join(f"{name}: {what[0].lower()}{what[1:]}" for name, what in READERS.items())
        + "; active: share of test examples on which the one latent is not 0.",
    )


def _chart(found: dict[str, Any]) -> Chart:
    return Chart(
        "Two poles of a concept",
        "concept",
        "balanced test accuracy",
        {
            reader: [
                [concept, *(part["readers"][reader][key] for key in ("accuracy", "low", "high"))]
                for concept, part in found.items()
            ]
            for reader in READERS
        },
        kind="bars",
        caption="Whether one latent tells the poles apart as well as two do, and as the raw activation does.",
    )
