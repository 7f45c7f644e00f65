"""What ablating latents does to probes of the activations they stand for, without running a model.

Setting latents to 0 and keeping what the SAE leaves unexplained changes an activation by `-sum z_i d_i`, and a probe's
score by `-sum z_i (d_i . w)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab import metrics
from saelab.evals import probes
from saelab.evals.probes import Floats, Groups, Probe
from saelab.sae import SparseCode

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Examples:
    """Activations and codes of the same examples, as arrays, and the dictionary.

    Attributes:
        x: `[example, d]`; code: of the same; W_dec: `[lat, d]`.
        test: `[example]` bool: where probes are judged; they are fitted on the others.
        unit: `[example]` int64: examples of one unit are resampled together.
    """

    x: Floats
    code: SparseCode
    W_dec: Tensor
    test: Bools
    unit: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Judged:
    """A probe on test examples.

    Attributes:
        scores, truth, groups, unit: `[test]`; groups count alike.
        rows, latents, added: `[entry]`: what each entry of the examples' codes adds to the scores.
    """

    scores: Floats
    truth: Bools
    groups: Groups
    unit: NDArray[np.int64]
    rows: NDArray[np.int64]
    latents: NDArray[np.int64]
    added: Floats

    @classmethod
    def of(cls, probe: Probe, on: Examples, positive: Bools, groups: Groups) -> Judged:
        """`positive` and `groups` `[example]`."""
        nnz, rows = on.code.support.nnz, on.code.support.rows.cpu().numpy()
        inside = on.test[rows]
        latents = on.code.latents[:nnz].long().cpu().numpy()[inside]
        values = on.code.values[:nnz].double().cpu().numpy()[inside]
        number = np.cumsum(on.test) - 1
        added = values * _towards(on.W_dec, probe).numpy()[latents]
        scores = probe.scores(on.x[on.test])
        return cls(scores, positive[on.test], groups[on.test], on.unit[on.test], number[rows[inside]], latents, added)

    def correct(self, ablated: Tensor | None = None) -> Bools:
        """`[test]`, with these latents (`[n]` numbers; None: none) at 0."""
        gone = np.isin(self.latents, [] if ablated is None else ablated.numpy())
        removed = np.bincount(self.rows[gone], self.added[gone], minlength=len(self.scores))
        return (self.scores - removed > 0) == self.truth

    def accuracy(self, ablated: Tensor | None = None) -> float:
        """Mean over groups."""
        return probes.accuracy(self.correct(ablated), self.groups)


@dataclass(frozen=True, eq=False)
class Question:
    """Whether an example is of one class; its probe, and the effect of each latent on it, `[lat]`."""

    judged: Judged
    effects: Tensor

    @classmethod
    def of(cls, on: Examples, positive: Bools, groups: Groups | None = None) -> Question:
        """Fit the probe on train examples (groups as `probes.logistic`).

        An effect is the latent's difference in means over the class times w . d, and 0 where the latent is not more
        active, by |z|, on the class.
        """
        train = ~on.test
        probe = probes.logistic(on.x[train], positive[train], None if groups is None else groups[train])
        effects, active = difference(on, probe, positive, groups)
        judged = Judged.of(probe, on, positive, positive.astype(np.int64) if groups is None else groups)
        return cls(judged, effects * (active > 0))

    def ablated(self, n: int) -> Tensor:
        """The n latents of the largest positive effects, or as many as have one."""
        chosen = probes.strongest(self.effects, n)
        return chosen[self.effects[chosen] > 0]


def difference(on: Examples, probe: Probe, positive: Bools, groups: Groups | None) -> tuple[Tensor, Tensor]:
    """`[lat]` twice: (mean z on positive train examples - mean on the others) times w . d, and that of |z| alone."""
    cells = None if groups is None else torch.from_numpy(groups)
    weights = probes.contrast(torch.from_numpy(positive), torch.from_numpy(~on.test), cells)
    size = on.code.with_values(on.code.values.abs())
    return probes.latent_sums(on.code, weights) * _towards(on.W_dec, probe), probes.latent_sums(size, weights)


@dataclass(frozen=True)
class Perturbation:
    """TPP of some ablations: `tpp = targeted - others`, all of them means of drops in accuracy; low and high."""

    tpp: float
    targeted: float
    others: float
    low: float
    high: float


def perturb(questions: Sequence[Question], ablated: Sequence[Tensor], *, seed: int, rounds: int) -> Perturbation:
    """Ablate, for each of two or more questions in turn, its latents, and see what all probes lose.

    The interval resamples units of test examples, the number in each class held fixed.
    """
    n = len(questions)
    drops = np.zeros((n, n))  # of the ablation for i, in question j
    share: list[Floats] = []  # of the TPP, by example of each question
    for j, question in enumerate(questions):
        before, groups = question.judged.correct(), question.judged.groups
        _, member, count = np.unique(groups, return_inverse=True, return_counts=True)
        mine = np.zeros(len(groups))
        for i, latents in enumerate(ablated):
            lost = (before.astype(float) - question.judged.correct(latents)) / (len(count) * count[member])
            drops[i, j] = lost.sum()
            mine += lost / n if i == j else -lost / (n * (n - 1))
        share.append(mine)
    targeted = float(np.trace(drops) / n)
    others = float((drops.sum() - np.trace(drops)) / (n * (n - 1)))
    unit = np.concatenate([question.judged.unit for question in questions])
    sums = probes.by_context(np.concatenate(share)[:, None], unit)
    tpp = targeted - others
    low, high = metrics.interval(sums, lambda total: float(total[0]), seed=seed, rounds=rounds) or (tpp, tpp)
    return Perturbation(tpp, targeted, others, low, high)


@dataclass(frozen=True, eq=False)
class Shortcut:
    """A probe that learned its question where a second label agrees, beside one that had no such help.

    Attributes:
        biased, clean: both on test examples of all four cells.
        effects: `[lat]`, size of each latent's effect on a probe for the second label.
    """

    biased: Judged
    clean: Judged
    effects: Tensor

    @classmethod
    def of(cls, on: Examples, wanted: Bools, second: Bools) -> Shortcut:
        """`wanted`, `second`: `[example]`, what is asked for and what it is confused with."""
        cells = wanted.astype(np.int64) * 2 + second
        train, agree = ~on.test, ~on.test & (wanted == second)
        biased = probes.logistic(on.x[agree], wanted[agree])
        clean = probes.logistic(on.x[train], wanted[train], cells[train])
        of_second = probes.logistic(on.x[train], second[train], cells[train])
        effects, _ = difference(on, of_second, second, cells)
        return cls(Judged.of(biased, on, wanted, cells), Judged.of(clean, on, wanted, cells), effects.abs())

    def ablated(self, n: int) -> Tensor:
        """The n latents of the largest effects, or as many as have one."""
        chosen = probes.strongest(self.effects, n)
        return chosen[self.effects[chosen] > 0]

    @property
    def gap(self) -> float:
        """What a repair could win."""
        return self.clean.accuracy() - self.biased.accuracy()

    def repaired(self, ablated: Tensor) -> float:
        """SCR: the share of the gap that ablating latents closes; no number where there is no gap."""
        return (self.biased.accuracy(ablated) - self.biased.accuracy()) / self.gap if self.gap else float("nan")

    def interval(self, ablated: Tensor, *, seed: int, rounds: int) -> tuple[float, float] | None:
        """Of `repaired`, over units of test examples; None where some resamples leave a cell empty, or no gap."""
        groups = self.biased.groups
        cells = np.stack([groups == cell for cell in np.unique(groups)], 1)
        right = (self.biased.correct(ablated), self.biased.correct(), self.clean.correct())
        columns = np.concatenate([cells, *(cells & ok[:, None] for ok in right)], 1).astype(float)
        n = cells.shape[1]

        def scr(total: Floats) -> float:
            if not (total[:n] > 0).all():
                return float("nan")
            after, before, clean = ((total[k * n : (k + 1) * n] / total[:n]).mean() for k in (1, 2, 3))
            return float((after - before) / (clean - before)) if clean != before else float("nan")

        return metrics.interval(probes.by_context(columns, self.biased.unit), scr, seed=seed, rounds=rounds)


def _towards(W_dec: Tensor, probe: Probe) -> Tensor:
    """`[lat]` float64: w . d."""
    return W_dec.detach().double().cpu() @ torch.from_numpy(probe.weight)
