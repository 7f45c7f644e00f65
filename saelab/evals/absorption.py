"""Absorption: a latent that stands for a letter stays silent on words that another latent has taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from saelab import metrics
from saelab.errors import SettingError, check_least, check_seed
from saelab.evals import probes
from saelab.evals.base import Chart, NotMeasurable, Result, Subject, Table
from saelab.evals.cosines import unit
from saelab.evals.first_letters import F1_JUMP, Letter, Letters, letters
from saelab.evals.probes import Floats
from saelab.sae import SAE, SparseCode

FULL_COSINE, FRACTION_COSINE = 0.025, 0.1
"""Cosine with the probe from which a latent can be an absorbing one: alone, and as one of several."""
SHARE, ABSORBERS, OFF = 0.4, 3, 1e-8
"""Share of the probe's projection that absorbers must carry; how many can share it; activation that counts as none."""


@dataclass(frozen=True)
class Absorption:
    """How often the main latents of a first letter leave a word to another latent (SAEBench, 2503.09532, and its code;
    after 2409.14507).

    With p the probe's direction of norm 1, z the code, and the contribution of latent i being z_i cos(d_i, p), on test
    words that the probe tells rightly:

        full      1 where all main latents are off, the word's projection x . p is not negative, and the latent that
                  contributes most has a cosine of 0.025 or more with p and 0.4 of the projection
        fraction  a / (a + m), with m what main latents contribute, a what up to three other latents of cosine 0.1 or
                  more with p do, at most x . p - m; 0 where a is below 0.4 of the projection or m all of it, 1 where m
                  is not positive

    Scores are means over the words of a letter, then over letters whose probe has an F1 above `min_probe_f1`; intervals
    are bootstrapped over contexts. Words and main latents are those of `splitting`. An SAE that has learned nothing
    scores low, too (on the demo 0.03 beside 0.04): its main latents are no main latents. So read the scores beside
    F1, and beside the null, in which latents chosen for shuffled labels stand for main ones. The scores mean little
    for models below about 1B parameters and dictionaries below 16k latents, which is why these are not measured
    unless `min_parameters` and `min_latents` are lowered.

    Deviations: words share contexts, see `saelab.tasks.spelled`; probes are scikit-learn's, on standardised columns.
    """

    min_parameters: Annotated[int, "of the model, below which it is not measured"] = 1_000_000_000
    min_latents: Annotated[int, "of the dictionary, below which it is not measured"] = 16_384
    examples: Annotated[int, "words, train and test together, evenly over letters"] = 8000
    f1_jump: Annotated[float, "gain in F1 that makes one more latent a main one"] = F1_JUMP
    min_probe_f1: Annotated[float, "of a letter's probe, below which the letter is left out"] = 0.6
    min_letters: Annotated[int, "left in, below which nothing is measured"] = 20
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of words and the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "examples", "min_letters", "bootstrap_rounds")
        check_seed(self.seed)
        for key in ("min_parameters", "min_latents"):
            if getattr(self, key) < 0:
                raise SettingError(key, f"must not be negative, found {getattr(self, key)}")

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        self._check_size(subject)
        return self.score(letters(subject, self.examples, self.seed), subject.sae)

    def score(self, found: Letters, sae: SAE) -> Result:
        """
        Raises:
            NotMeasurable: probes find too few letters.
        """
        known = found.well_probed(self.min_probe_f1, self.min_letters)
        words = {name: self._words(found, name, sae) for name in known}
        words = {name: table for name, table in words.items() if len(table.own)}
        if not words:
            raise NotMeasurable("probes tell none of the test words rightly")
        return self._result(known, words)

    def _check_size(self, subject: Subject) -> None:
        if subject.target != subject.hook:
            raise NotMeasurable("a transcoder's latents are written to another hook than the one that is probed")
        sizes = [
            ("min_latents", subject.sae.n_latents, self.min_latents, "the dictionary has", "latents"),
            ("min_parameters", subject.model().n_parameters, self.min_parameters, "the model has", "parameters"),
        ]
        small = [(key, f"{of} {n:,} {what}, below {least:,}") for key, n, least, of, what in sizes if n < least]
        if small:
            keys = " and ".join(f"eval.absorption.{key}" for key, _ in small)
            raise NotMeasurable(
                f"{' and '.join(text for _, text in small)}: even an SAE that has learned nothing looks good there "
                f"(lower {keys} to measure it all the same)"
            )

    def _words(self, found: Letters, name: str, sae: SAE) -> Words:
        """Of a letter's test words that the probe tells rightly."""
        concept, probe = found.seen.concept, found.known[name].probe
        told = torch.from_numpy(probe.scores(found.seen.x.double().numpy()) > 0)
        rows = (concept.is_class(concept.classes.index(name)) & concept.test & told).nonzero()[:, 0]
        direction = torch.from_numpy(probe.weight / np.linalg.norm(probe.weight))
        cosines, projections = unit(sae.W_dec).cpu().double() @ direction, found.seen.x[rows].double() @ direction
        own, null = (
            absorbed(found.code, rows, projections, cosines, of[name].main(self.f1_jump))
            for of in (found.known, found.null)
        )
        return Words(own, null, concept.context[rows])

    def _result(self, known: Mapping[str, Letter], words: Mapping[str, Words]) -> Result:
        rows = {name: self._row(known[name], table) for name, table in words.items()}
        values = {f"absorption_{name}": fmean(row[name] for row in rows.values()) for name in _MEANING}
        return Result(
            values,
            n_tokens=0,
            n_examples=sum(len(table.own) for table in words.values()),
            intervals=self._intervals(words),
            meaning={f"absorption_{name}": text for name, text in _MEANING.items()},
            tables=[_table(rows)],
            charts=[_chart(rows)],
            details={"main_latents": {name: known[name].main(self.f1_jump).tolist() for name in rows}},
        )

    def _row(self, letter: Letter, table: Words) -> dict[str, Any]:
        main = letter.main(self.f1_jump)
        full, fraction, silent = table.own.mean(0).tolist()
        return {
            "words": len(table.own),
            "full": full,
            "fraction": fraction,
            "main_silent_frac": silent,
            "null_full": float(table.null[:, 0].mean()),
            "null_fraction": float(table.null[:, 1].mean()),
            "main_f1": letter.f1[len(main) - 1],
            "probe_f1": letter.probe_f1,
            "main": ", ".join(map(str, main.tolist())),
        }

    def _intervals(self, words: Mapping[str, Words]) -> dict[str, tuple[float, float]]:
        """Resampling contexts; a letter of which a resample has no word is left out of its mean."""
        n = len(words)
        columns, context = np.zeros((sum(len(table.own) for table in words.values()), 3 * n)), []
        at = 0
        for letter, table in enumerate(words.values()):
            here = slice(at, at := at + len(table.own))
            columns[here, letter] = 1
            columns[here, n + letter], columns[here, 2 * n + letter] = table.own[:, 0], table.own[:, 1]
            context.append(table.context)
        sums = probes.by_context(columns, np.concatenate(context))

        def of(score: int) -> tuple[float, float] | None:
            def mean(total: Floats) -> float:
                present = total[:n] > 0
                return float((total[score * n : (score + 1) * n][present] / total[:n][present]).mean())

            return metrics.interval(sums, mean, seed=self.seed, rounds=self.bootstrap_rounds)

        found = {"absorption_full": of(1), "absorption_fraction": of(2)}
        return {name: interval for name, interval in found.items() if interval is not None}


@dataclass(frozen=True, eq=False)
class Words:
    """Words of one letter.

    Attributes:
        own, null: `[word, 3]` as `absorbed` gives them, with the letter's main latents, and with latents that were
            chosen for shuffled labels.
        context: `[word]` int64.
    """

    own: Tensor
    null: Tensor
    context: Tensor


def absorbed(code: SparseCode, rows: Tensor, projections: Tensor, cosines: Tensor, main: Tensor) -> Tensor:
    """`[word, 3]` float64: full absorption, the fraction, and whether all main latents are off.

    Args:
        rows: `[word]`, of the code; projections: `[word]`, of the words' activations on the probe's direction.
        cosines: `[lat]`, of decoder rows with that direction; main: latents.
    """
    latents, values, offsets = code.latents.cpu().long(), code.values.cpu().double(), code.offsets.tolist()
    found: list[tuple[float, float, float]] = []
    for row, total in zip(rows.tolist(), projections.tolist(), strict=True):
        active = latents[offsets[row] : offsets[row + 1]]
        z = values[offsets[row] : offsets[row + 1]]
        found.append(_absorbed(z, cosines[active], torch.isin(active, main), total))
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 3)


def _absorbed(z: Tensor, cosine: Tensor, is_main: Tensor, total: float) -> tuple[float, float, float]:
    """Of one word, from its active latents."""
    off = bool((z[is_main].abs() < OFF).all())
    added = z * cosine
    top = int(added.argmax()) if len(added) else None
    full = off and total >= 0 and top is not None and float(cosine[top]) >= FULL_COSINE and added[top] >= SHARE * total
    main = float(added[is_main].sum())
    others = added[~is_main & (cosine >= FRACTION_COSINE) & (added > 0)]
    others = float(others.topk(min(ABSORBERS, len(others))).values.sum())
    if main >= total or others < SHARE * total:
        fraction = 0.0
    elif main <= 0:
        fraction = 1.0
    else:
        taken = min(others, total - main)
        fraction = taken / (taken + main)
    return float(full), fraction, float(off)


_MEANING = {
    "full": "Share of words on which all main latents of their first letter are off and another latent stands for it; "
    "lower is better, where main_f1 is high and null_full far above: an untrained SAE scores low, too.",
    "fraction": "Share of what is said of the first letter that up to three other latents say; lower is better, where "
    "main_f1 is high and null_fraction far above: an untrained SAE scores low, too.",
    "main_silent_frac": "Share of words on which all main latents of their first letter are off; lower is better.",
    "null_full": "Full absorption with latents chosen for shuffled labels in place of main ones.",
    "null_fraction": "Absorbed fraction with latents chosen for shuffled labels in place of main ones.",
    "main_f1": "F1 of a logistic regression on the main latents; higher is better, and where it is low nothing can be "
    "absorbed.",
    "probe_f1": "F1 of a logistic regression on the raw activation: what there is to be found.",
}


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ["words", *_MEANING, "main"]
    body = [[letter, *(row[name] for name in columns)] for letter, row in rows.items()]
    return Table(
        "Absorption by first letter", ["letter", *columns], body, "main: the latents that stand for the letter."
    )


def _chart(rows: Mapping[str, Mapping[str, Any]]) -> Chart:
    series: dict[str, list[list[float | str]]] = {
        name: [[letter, row[name]] for letter, row in rows.items()] for name in ("full", "fraction")
    }
    caption = "Words whose first letter other latents than its main ones stand for."
    return Chart("Absorption by first letter", "letter", "absorption", series, kind="bars", caption=caption)
