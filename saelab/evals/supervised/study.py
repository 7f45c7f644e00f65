"""The comparison itself: what dictionaries reconstruct, steer and name of a task, on activations and a way to run them.

Source: Makelov, Lange and Nanda 2024 (arXiv 2405.08366), approximation (axis 1) and sparse control (axis 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from saelab.evals.supervised.dictionary import AttributeDictionary, Written
from saelab.evals.supervised.edits import greedy, term_weights
from saelab.metrics import interval
from saelab.tasks import Answers

Labels = Mapping[str, Tensor]
"""`[prompt]` int64 by attribute."""
Values = Sequence[Tensor]
"""`[prompt, d]` for each site of a cross-section."""


@dataclass(frozen=True, eq=False)
class Coder:
    """A dictionary at one site.

    Attributes:
        rows: `[latent, d]`.
        write: activations `[prompt, d]` and what the prompts say, as the dictionary writes them.
    """

    rows: Tensor
    write: Callable[[Tensor, Labels], Written]

    @classmethod
    def of(cls, dictionary: AttributeDictionary) -> Coder:
        """The supervised dictionary as if it were an SAE that reads labels."""
        return cls(dictionary.rows, lambda _, labels: dictionary.write(labels))


@dataclass(frozen=True, eq=False)
class Study:
    """One cross-section on test prompts.

    Attributes:
        run: the model's answers with values in place of the sites' own (None: the model as it is).
        score: `[prompt]` of answers.
        labels, values: of the prompts.
        mean: `[d]` of each site over training prompts: what ablation puts there.
        changed: by attribute, the same prompts with another value of it: labels, and what the sites carry then.
    """

    run: Callable[[Values | None], Answers]
    score: Callable[[Answers], Tensor]
    labels: Labels
    values: Values
    mean: Values
    changed: Mapping[str, tuple[Labels, Values]]
    seed: int = 0


@dataclass(frozen=True)
class Number:
    """A mean over prompts with its 95 % bootstrap interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class Baseline:
    """The model as it is, and with the sites at their mean: `[prompt]` scores."""

    clean: Tensor
    ablated: Tensor
    answers: Answers

    @property
    def effect(self) -> float:
        """Share of the score that is lost where the sites are at their mean."""
        return 1 - float(self.ablated.mean() / self.clean.mean())


def baseline(study: Study) -> Baseline:
    clean = study.run(None)
    ablated = study.run([mean.expand_as(value) for mean, value in zip(study.mean, study.values, strict=True)])
    return Baseline(study.score(clean), study.score(ablated), clean)


def sufficiency(study: Study, base: Baseline, recon: Values) -> Number:
    """`score(recon in place) / score(clean)`; 1 is perfect."""
    return _ratio([study.score(study.run(recon)), base.clean], lambda t: t[0] / t[1], study.seed)


def necessity(study: Study, base: Baseline, recon: Values) -> Number:
    """`1 - |ablated - removed| / |ablated - clean|`, where what the dictionary explains is removed and the mean stays;
    1: what it leaves is worth no more than the mean."""
    left = [m + v - r for m, v, r in zip(study.mean, study.values, recon, strict=True)]
    scores = [study.score(study.run(left)), base.clean, base.ablated]
    return _ratio(scores, lambda t: 1 - abs(t[2] - t[0]) / abs(t[2] - t[1]), study.seed)


@dataclass(frozen=True)
class Control:
    """What an edit of one attribute does.

    Attributes:
        agreement: share of prompts whose likeliest answer is that under ground-truth patching.
        agreement_token: the same of the likeliest token of the whole vocabulary, which need not be an answer.
        score: mean.
        distance: mean distance to the changed prompt's activations, of that of no edit; None where they do not differ.
        latents: removed or added, mean over prompts of the sum over sites.
        weight: their share of what the dictionary says of the prompt, mean over prompts and sites (`edits.Edit`).
    """

    agreement: Number
    agreement_token: float
    score: float
    distance: float | None
    latents: float | None = None
    weight: float | None = None


@dataclass(frozen=True, eq=False)
class Attribute:
    """Ground truth of one attribute's edits: the changed prompts' own activations, patched in."""

    name: str
    truth: Answers
    labels: Labels
    values: Values

    @classmethod
    def of(cls, study: Study, name: str) -> Attribute:
        labels, values = study.changed[name]
        return cls(name, study.run(values), labels, values)

    def judge(self, study: Study, edited: Values, answers: Answers | None = None) -> Control:
        """`answers`: what the model says under the edit, where that is known."""
        found = study.run(edited) if answers is None else answers
        same = found.log_probs.argmax(1) == self.truth.log_probs.argmax(1)
        away, whole = (
            sum(float((value - target).norm(dim=1).mean()) for value, target in zip(values, self.values, strict=True))
            for values in (edited, study.values)
        )
        return Control(
            _ratio([same.float(), torch.ones(len(same))], lambda t: t[0] / t[1], study.seed),
            float((found.best == self.truth.best).float().mean()),
            float(study.score(found).mean()),
            away / whole if whole else None,
        )


def ground_truth(study: Study, attribute: Attribute) -> Control:
    return attribute.judge(study, attribute.values, attribute.truth)


def no_edit(study: Study, base: Baseline, attribute: Attribute) -> Control:
    return attribute.judge(study, study.values, base.answers)


def supervised_edit(study: Study, attribute: Attribute, dictionaries: Sequence[AttributeDictionary]) -> Control:
    """`a - u_old + u_new` at every site."""
    name = attribute.name
    old, new = study.labels[name], attribute.labels[name]
    edited = [d.edit(value, name, old, new) for d, value in zip(dictionaries, study.values, strict=True)]
    column = list(study.labels).index(name)
    weights = [term_weights(d.write(study.labels), d.rows)[:, column].mean() for d in dictionaries]
    control = attribute.judge(study, edited)
    return replace(control, latents=2.0 * len(edited), weight=float(torch.stack(weights).mean()))


def sparse_edits(
    study: Study, attribute: Attribute, coders: Sequence[Coder], budgets: Sequence[int]
) -> dict[int, Control]:
    """With at most so many latents removed or added at each site."""
    found = [
        greedy(value, target, c.write(value, study.labels), c.write(target, attribute.labels), c.rows, budgets)
        for c, value, target in zip(coders, study.values, attribute.values, strict=True)
    ]
    return {
        budget: replace(
            attribute.judge(study, [edits[budget].activations for edits in found]),
            latents=float(sum(edits[budget].used.mean() for edits in found)),
            weight=float(torch.stack([edits[budget].weight.mean() for edits in found]).mean()),
        )
        for budget in budgets
    }


def _ratio(columns: Sequence[Tensor], statistic: Callable[[np.ndarray], float], seed: int) -> Number:
    """A statistic of columns' sums over prompts."""
    sums = torch.stack([column.double() for column in columns], 1).numpy()
    found = interval(sums, statistic, seed=seed)
    return Number(float(statistic(sums.sum(0))), *(found or (None, None)))
