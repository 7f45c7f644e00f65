"""Everything that is measured at one cross-section, as a JSON-able record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from saelab.evals.base import NotMeasurable
from saelab.evals.supervised import study
from saelab.evals.supervised.dictionary import AttributeDictionary, Fit, fit
from saelab.evals.supervised.interpretation import interpret
from saelab.evals.supervised.sites import Section
from saelab.evals.supervised.study import Attribute, Baseline, Coder, Study, Values
from saelab.evals.supervised.work import Work

MIN_EFFECT = 0.1
"""A cross-section counts where ablating it changes at least this share of the score: below, ratios are noise."""
_FITS: tuple[Fit, ...] = ("mse", "mean")

Make = Callable[[Tensor], Coder]
"""A dictionary for one site, of what the site carries in training prompts, `[prompt, d]`.

Raises, on being called:
    NotMeasurable: there can be none.
"""


@dataclass(frozen=True, eq=False)
class Measured:
    """One cross-section: supervised dictionaries of its own, and others beside them.

    Attributes:
        others: by name.
        edits: how many latents are removed or added at most.
    """

    work: Work
    section: Section
    others: Mapping[str, Make]
    edits: tuple[int, ...]

    def record(self) -> dict[str, Any]:
        """JSON-able; without `approximation` where the section holds too little of the task."""
        base = self.base
        record: dict[str, Any] = {
            "section": " + ".join(map(str, self.section)),
            "clean": float(base.clean.mean()),
            "ablated": float(base.ablated.mean()),
            "effect": base.effect,
        }
        if abs(base.effect) < MIN_EFFECT:
            return record
        coders, missing = self.coders
        supervised = {f"supervised_{how}": [Coder.of(d) for d in fitted] for how, fitted in self.supervised.items()}
        found = record | {
            "approximation": {name: self._approximation(c) for name, c in (supervised | coders).items()},
            "control": {name: self._control(name, coders) for name in self.study.labels},
            "variance": self._variance(),
            "interpretation": {},
            "missing": missing,
        }
        for name, sites in coders.items():
            said, good = interpret(self.work, self.section, sites)
            found["interpretation"][name] = said | self._kept(sites, good)
        return found

    @staticmethod
    def passes(attributes: int, others: int, edits: int) -> int:
        """How often the test prompts run for one record."""
        return 1 + 2 * (len(_FITS) + others) + attributes * (1 + len(_FITS) + others * edits) + 2 * others

    @cached_property
    def study(self) -> Study:
        return self.work.study(self.section)

    @cached_property
    def base(self) -> Baseline:
        return study.baseline(self.study)

    @cached_property
    def supervised(self) -> dict[Fit, list[AttributeDictionary]]:
        """A dictionary for each site."""
        labels, sizes = self.work.labels("train"), self.work.values_per_attribute
        values = self.work.values("train", self.section)
        return {how: [fit(value, labels, sizes, how) for value in values] for how in _FITS}

    @cached_property
    def coders(self) -> tuple[dict[str, list[Coder]], dict[str, str]]:
        """The other dictionaries, one for each site, and why some are missing."""
        found, missing = {}, {}
        for name, make in self.others.items():
            try:
                found[name] = [make(value) for value in self.work.values("train", self.section)]
            except NotMeasurable as reason:
                missing[name] = reason.message
        return found, missing

    def _approximation(self, coders: Sequence[Coder]) -> dict[str, Any]:
        found = self.study
        return self._of([c.write(value, found.labels).recon for c, value in zip(coders, found.values, strict=True)])

    def _of(self, recon: Values) -> dict[str, Any]:
        found = self.study
        return {
            "sufficiency": asdict(study.sufficiency(found, self.base, recon)),
            "necessity": asdict(study.necessity(found, self.base, recon)),
        }

    def _control(self, name: str, coders: Mapping[str, Sequence[Coder]]) -> dict[str, Any]:
        """Edits of one attribute, by who makes them."""
        attribute = Attribute.of(self.study, name)
        edits = {
            "truth": study.ground_truth(self.study, attribute),
            "none": study.no_edit(self.study, self.base, attribute),
        }
        for how, fitted in self.supervised.items():
            edits[f"supervised_{how}"] = study.supervised_edit(self.study, attribute, fitted)
        for other, sites in coders.items():
            sparse = study.sparse_edits(self.study, attribute, sites, self.edits)
            edits |= {f"{other} {budget}": control for budget, control in sparse.items()}
        return {editor: asdict(control) for editor, control in edits.items()}

    def _variance(self) -> dict[str, float]:
        """Share of the training activations' variance that each attribute's vectors have (least squares)."""
        labels, values = self.work.labels("train"), self.work.values("train", self.section)
        total = sum(float((value - value.mean(0)).square().sum()) for value in values)
        fitted = self.supervised["mse"]
        return {
            name: sum(float(d.rows[d.first[name] + labels[name]].square().sum()) for d in fitted) / max(total, 1e-30)
            for name in labels
        }

    def _kept(self, coders: Sequence[Coder], good: Sequence[Tensor]) -> dict[str, Any]:
        """The approximation by some latents of each site alone: their terms around the rest's mean."""
        found = self.study
        recon = []
        for coder, latents, mean, value in zip(coders, good, found.mean, found.values, strict=True):
            written = coder.write(value, found.labels)
            said = written.only(latents).terms(coder.rows).sum(1)
            recon.append(mean + said - said.mean(0))
        return {"kept": sum(map(len, good)), **self._of(recon)}
