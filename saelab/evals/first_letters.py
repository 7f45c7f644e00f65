"""First letters of words: what a probe of the activations knows of them, and what a few latents do.

Source: the first part of SAEBench's absorption (arXiv 2503.09532), after Chanin et al. 2024 (arXiv 2409.14507).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from saelab.evals import probes
from saelab.evals.base import NotMeasurable, Subject
from saelab.evals.cosines import Report
from saelab.evals.labelled import Seen, problems, seen
from saelab.evals.probes import Probe
from saelab.files import sha256_json
from saelab.kernels import gather
from saelab.sae import SparseCode
from saelab.tasks.spelled import spelled_letter

Bools = NDArray[np.bool_]
MAX_K, F1_JUMP = 10, 0.03
"""Latents read at most, and the gain in F1 that makes one more of them a main one: SAEBench's."""
_STEPS, _RATE, _LAST_RATE, _L1 = 300, 0.1, 1e-4, 1e-2


@dataclass(frozen=True, eq=False)
class Letter:
    """What is known of one letter.

    Attributes:
        probe: a logistic regression on activations, and its F1 on test words: probe_f1.
        ranked: latents that tell it, the best first.
        f1: of logistic regressions on the first 1, 2, ... of them, on test words.
    """

    probe: Probe
    probe_f1: float
    ranked: Tensor
    f1: tuple[float, ...]

    def main(self, jump: float) -> Tensor:
        """Its main latents: the first of `ranked`, and the next ones as long as each adds more than `jump` to F1."""
        n = 1
        while n < len(self.f1) and self.f1[n] > self.f1[n - 1] + jump:
            n += 1
        return self.ranked[:n]


@dataclass(frozen=True, eq=False)
class Letters:
    """Words as a subject sees them.

    Attributes:
        seen: words and activations; code: of the same.
        known: by letter; those alone of which there are enough words.
        null: the same with labels shuffled within train and within test.
    """

    seen: Seen
    code: SparseCode
    known: Mapping[str, Letter]
    null: Mapping[str, Letter]

    def well_probed(self, min_f1: float, min_letters: int) -> dict[str, Letter]:
        """Letters that a probe finds in the activations.

        Raises:
            NotMeasurable: there are fewer than `min_letters`.
        """
        found = {name: letter for name, letter in self.known.items() if letter.probe_f1 > min_f1}
        if len(found) < min_letters:
            raise NotMeasurable(
                f"probes of the activations find {len(found)} first letters with an F1 above {min_f1}, and "
                f"{min_letters} are needed: the model hardly knows here how words are spelled"
            )
        return found


@torch.no_grad()
def letters(subject: Subject, examples: int, seed: int) -> Letters:
    """Kept in `Subject.shared`, for all evaluators that ask.

    Raises:
        NotMeasurable: the tokenizer has too few words.
    """
    key = sha256_json(
        ["letters", subject.sae.sha256(), subject.store.content_sha256, subject.mask.as_json(), examples, seed]
    )
    if key not in subject.shared:
        report = subject.share(0, 0.4).report
        found = seen(subject, "spelled_letter", examples, seed, make=spelled_letter, report=report)
        code = subject.sae.encode(found.x.to(subject.sae.W_dec))
        subject.shared[key] = read_letters(found, code, seed, subject.share(0.4, 1).report)
    return subject.shared[key]


def read_letters(found: Seen, code: SparseCode, seed: int, report: Report = lambda done, total: None) -> Letters:
    """Fit all probes.

    Args:
        code: of `found.x`; seed: of shuffled labels.

    Raises:
        NotMeasurable: no latent is active on any word.
    """
    if not code.active.any():
        raise NotMeasurable("no latent is active on any of the words")
    asked, test = problems(found.concept), found.concept.test
    order = _shuffled(test, seed)
    shuffled = {name: positive[order] for name, positive in asked.items()}
    x, train = found.x.double().numpy(), ~test.numpy()
    known: dict[str, Letter] = {}
    null: dict[str, Letter] = {}

    def read(probe: Probe, latents: Tensor, truth: Bools) -> Letter:
        report(len(known) + len(null) + 1, 2 * len(asked))
        f1 = f1_score(probe.scores(x[~train]) > 0, truth[~train])
        return Letter(probe, f1, latents, sparse_f1(code, latents, truth, train))

    for (name, positive), latents in zip(asked.items(), rank(code, asked, ~test), strict=True):
        known[name] = read(probes.logistic(x[train], positive.numpy()[train]), latents, positive.numpy())
    for (name, positive), latents in zip(shuffled.items(), rank(code, shuffled, ~test), strict=True):
        null[name] = read(known[name].probe, latents, positive.numpy())
    return Letters(found, code, known, null)


def _shuffled(test: Tensor, seed: int) -> Tensor:
    """An order of examples in which each side keeps its places."""
    generator, order = torch.Generator().manual_seed(seed), torch.arange(len(test))
    for side in (test, ~test):
        order[side] = order[side][torch.randperm(int(side.sum()), generator=generator)]
    return order


def sparse_f1(code: SparseCode, latents: Tensor, truth: Bools, train: Bools) -> tuple[float, ...]:
    """On test words, of the first latent, of the first two, and so on."""
    columns = probes.columns(code, latents)
    fitted = (probes.logistic(columns[train, :k], truth[train]) for k in range(1, len(latents) + 1))
    return tuple(
        f1_score(probe.scores(columns[~train, :k]) > 0, truth[~train]) for k, probe in enumerate(fitted, start=1)
    )


def f1_score(said: Bools, truth: Bools) -> float:
    right = int((said & truth).sum())
    return 2 * right / max(int(said.sum()) + int(truth.sum()), 1)


def rank(code: SparseCode, asked: Mapping[str, Tensor], train: Tensor, n: int = MAX_K) -> Tensor:
    """`[class, n]`: the latents that tell each class, the best first.

    One logistic regression on all latents with an L1 penalty, by Adam; its largest weights, as in SAEBench, in units
    of the mean activation. A weight counts by its sign on the class's own words, so that latents of signed codes may
    speak by being negative.

    Args:
        asked: `[tok]` bool by class; train: `[tok]` bool.
    """
    labels = torch.stack(list(asked.values()), 1)
    target = labels[train].to(code.values)
    values = code.values / code.values[code.values != 0].abs().mean()
    weight, bias = (target.new_zeros(rows, len(asked)).requires_grad_() for rows in (code.n_latents, 1))
    balance = (1 - target).sum(0) / target.sum(0)
    optimiser = torch.optim.Adam([weight, bias], lr=_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, exp(log(_LAST_RATE / _RATE) / _STEPS))
    for _ in range(_STEPS):
        with torch.enable_grad():
            logits = gather(values, code.support, weight)[train] + bias
            loss = cross_entropy(logits, target, pos_weight=balance) + _L1 * weight.abs().sum(0).mean()
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        schedule.step()
    means = torch.stack([probes.latent_sums(code, (column & train).double()) for column in labels.T], 1)
    scores = weight.detach().cpu().double() * means.sign()
    return scores.T.topk(min(n, code.n_latents), dim=1).indices
