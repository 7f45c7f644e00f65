"""Feature splitting: into how many latents a concept falls that one direction of the activations holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated

import numpy as np
import torch

from saelab.errors import check_least, check_seed
from saelab.evals.base import Chart, Result, Subject, Table
from saelab.evals.cosines import unit
from saelab.evals.first_letters import F1_JUMP, MAX_K, Letter, Letters, letters
from saelab.sae import SAE


@dataclass(frozen=True)
class Splitting:
    """Latents that it takes to tell a word's first letter (SAEBench's `num_split_features`, 2503.09532; after
    2409.14507).

    One logistic regression with an L1 penalty ranks all latents; others read the first 1, 2, ... of them. Latents are
    counted as long as each adds more than `f1_jump` to F1 on test words: from two on, the letter is split. Letters
    count whose probe on the raw activation has an F1 above `min_probe_f1`. The null does the same for shuffled labels:
    on few test words F1 jumps by chance.
    """

    examples: Annotated[int, "words, train and test together, evenly over letters"] = 8000
    f1_jump: Annotated[float, "gain in F1 that makes one more latent a part of the letter"] = F1_JUMP
    min_probe_f1: Annotated[float, "of a letter's probe, below which the letter is left out"] = 0.6
    min_letters: Annotated[int, "left in, below which nothing is measured"] = 5
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of words, shuffled labels and the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "examples", "min_letters", "bootstrap_rounds")
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        return self.score(letters(subject, self.examples, self.seed), subject.sae)

    def score(self, found: Letters, sae: SAE) -> Result:
        """
        Raises:
            NotMeasurable: probes find too few letters.
        """
        known = found.well_probed(self.min_probe_f1, self.min_letters)
        null = {name: found.null[name] for name in known}
        sizes, by_chance = ([len(letter.main(self.f1_jump)) for letter in of.values()] for of in (known, null))
        values = {
            "splitting_latents": fmean(sizes),
            "splitting_frac": fmean(size > 1 for size in sizes),
            "splitting_first_f1": fmean(letter.f1[0] for letter in known.values()),
            "splitting_main_f1": fmean(letter.f1[n - 1] for letter, n in zip(known.values(), sizes, strict=True)),
            "splitting_probe_f1": fmean(letter.probe_f1 for letter in known.values()),
            "splitting_null_latents": fmean(by_chance),
            "splitting_null_f1": fmean(letter.f1[0] for letter in null.values()),
        }
        return Result(
            values,
            n_tokens=0,
            n_examples=int(found.seen.concept.test.sum()),
            intervals=self._intervals(sizes),
            meaning=_MEANING,
            tables=[self._table(known, sae)],
            charts=[_chart(known, null)],
        )

    def _intervals(self, sizes: list[int]) -> dict[str, tuple[float, float]]:
        """Resampling letters."""
        rng, all_sizes = np.random.default_rng(self.seed), np.array(sizes)
        draws = all_sizes[rng.integers(len(sizes), size=(self.bootstrap_rounds, len(sizes)))]
        pairs = {"splitting_latents": draws.mean(1), "splitting_frac": (draws > 1).mean(1)}
        return {name: tuple(np.percentile(values, [2.5, 97.5]).tolist()) for name, values in pairs.items()}

    def _table(self, known: Mapping[str, Letter], sae: SAE) -> Table:
        rows: list[list[str | float | None]] = []
        directions = unit(sae.W_dec)
        for name, letter in known.items():
            main = letter.main(self.f1_jump)
            these = directions[main.to(directions.device)]
            pairs = len(main) * (len(main) - 1)
            cosine = float((these @ these.T).fill_diagonal_(0).sum()) / pairs if pairs else None
            f1 = [letter.f1[k - 1] if k <= len(letter.f1) else None for k in _SHOWN]
            rows.append([name, len(main), letter.probe_f1, *f1, cosine, ", ".join(map(str, main.tolist()))])
        columns = ["letter", "latents", "probe F1", *(f"F1, k={k}" for k in _SHOWN), "cosine", "main latents"]
        caption = "cosine: mean among the main latents' decoder rows; like parts of one feature, or unlike ones."
        return Table("Splitting by first letter", columns, rows, caption)


_SHOWN = (1, 2, 3, 5, MAX_K)
_MEANING = {
    "splitting_latents": "Mean number of latents that stand for a first letter; 1 is not split.",
    "splitting_frac": "Share of first letters that two or more latents stand for; lower is better.",
    "splitting_first_f1": "Mean F1 of the best single latent for a letter; higher is better.",
    "splitting_main_f1": "Mean F1 of all latents that stand for a letter; higher is better.",
    "splitting_probe_f1": "Mean F1 of a logistic regression on the raw activation: what there is to be found.",
    "splitting_null_latents": "The number of latents with shuffled labels: what F1 jumps by chance.",
    "splitting_null_f1": "F1 of the best single latent for shuffled labels: chance.",
}


def _chart(known: Mapping[str, Letter], null: Mapping[str, Letter]) -> Chart:
    most = max(len(letter.f1) for letter in known.values())
    series: dict[str, list[list[float | str]]] = {
        label: [[k, fmean(letter.f1[k - 1] for letter in of.values())] for k in range(1, most + 1)]
        for label, of in (("k latents", known), ("shuffled labels", null))
    }
    probe = fmean(letter.probe_f1 for letter in known.values())
    series["raw activations"] = [[k, probe] for k in (1, most)]
    caption = "How well first letters are told by a few latents; a feature that is split needs several."
    return Chart("First letters by number of latents", "latents read (k)", "F1", series, caption=caption)
