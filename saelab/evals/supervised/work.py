"""One task on one model: prompts, and what is measured at a cross-section, as JSON-able records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from saelab.evals.supervised import sites, study
from saelab.evals.supervised.attributes import Detectors, detect
from saelab.evals.supervised.coders import dense_codes
from saelab.evals.supervised.dictionary import AttributeDictionary, Fit, fit
from saelab.evals.supervised.sites import Section
from saelab.evals.supervised.study import Attribute, Baseline, Coder, Labels, Study, Values
from saelab.lm.model import LanguageModel
from saelab.sae import SAE
from saelab.tasks import Answers, Choices, Prompts, Task, answer

MIN_EFFECT = 0.1
"""A cross-section counts where ablating it costs at least this share of the score: below, ratios are noise."""
INTERPRETABLE_F1 = 0.6
"""From here on a latent stands for a value, where only such latents are kept or removed (section 4.3)."""
_FITS: tuple[Fit, ...] = ("mse", "mean")


@dataclass(frozen=True)
class Sizes:
    """Prompts of each purpose, budgets of edits, and the seed of all."""

    train: int
    test: int
    judged: int
    edits: tuple[int, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class Work:
    """A task's prompts on a model.

    Attributes:
        report: called with prompts run so far.
    """

    lm: LanguageModel
    task: Task
    sizes: Sizes
    report: Callable[[int], None]

    @cached_property
    def _train(self) -> Prompts:
        return self.task.prompts(self.task.draw(self.sizes.train, "train", self.sizes.seed))

    @cached_property
    def _judged(self) -> Prompts:
        return self.task.prompts(self.task.draw(self.sizes.judged, "test", self.sizes.seed + 1))

    @cached_property
    def test(self) -> Prompts:
        """What interventions are measured on."""
        return self.task.prompts(self.task.draw(self.sizes.test, "test", self.sizes.seed + 2))

    @cached_property
    def values_per_attribute(self) -> dict[str, int]:
        return {name: len(values) for name, values in self.task.attributes.items()}

    def labels(self, choices: Choices) -> Labels:
        """Of the attributes alone."""
        return {name: choices[name] for name in self.values_per_attribute}

    def score(self, answers: Answers) -> Tensor:
        """`[prompt]` of the test prompts' answers."""
        return answers.score(self.test, self.task.metric)

    def answers(self, section: Section = (), values: Values = ()) -> Answers:
        """To the test prompts, with the section's sites replaced."""
        found = answer(self.lm, self.test, sites.replacing(self.lm, self.test, section, values))
        self.report(len(self.test))
        return found

    def capture(self, prompts: Prompts, section: Section) -> list[Tensor]:
        found = sites.capture(self.lm, prompts, section)
        self.report(len(prompts))
        return found

    def competence(self, hook: str) -> dict[str, Any]:
        """How well the model does the task, and what ablating `hook` at each marked position costs."""
        clean = self.answers()
        marks = ["end", *self.test.marks]
        score = float(self.score(clean).mean())
        effects = {}
        for mark in marks:
            section = sites.parse(f"{hook}@{mark}")
            mean = [value.mean(0) for value in self.capture(self._judged, section)]
            ablated = self.answers(section, [m.expand(len(self.test), -1) for m in mean])
            effects[mark] = 1 - float(self.score(ablated).mean()) / score
        return {"accuracy": float(clean.correct(self.test).float().mean()), "score": score, "effects": effects}

    def section(self, section: Section, others: Mapping[str, Callable[[Tensor], Coder]]) -> dict[str, Any]:
        """Everything at one cross-section.

        Args:
            others: dictionaries beside the supervised ones, by name, made of training activations `[prompt, d]`;
                only where the section is one site.
        """
        train = self.capture(self._train, section)
        found = self._study(section, [value.mean(0) for value in train])
        base = study.baseline(found)
        record: dict[str, Any] = {
            "section": " + ".join(map(str, section)),
            "clean": float(base.clean.mean()),
            "ablated": float(base.ablated.mean()),
            "effect": base.effect,
        }
        if base.effect < MIN_EFFECT:
            return record
        labels, counts = self.labels(self._train.choices), self.values_per_attribute
        dictionaries: dict[Fit, list[AttributeDictionary]] = {
            how: [fit(value, labels, counts, how) for value in train] for how in _FITS
        }
        coders = {f"supervised_{how}": [Coder.of(d) for d in fitted] for how, fitted in dictionaries.items()}
        coders |= {name: [make(train[0])] for name, make in others.items()}
        record["approximation"] = {name: self._approximation(found, base, c) for name, c in coders.items()}
        unsupervised = {name: coders[name] for name in others}
        record["control"] = self._control(found, base, dictionaries, unsupervised)
        if others:
            record |= self._interpretation(section, found, base, unsupervised)
        return record

    def _study(self, section: Section, mean: Values) -> Study:
        choices = self.test.choices
        changed = {}
        for number, name in enumerate(self.values_per_attribute):
            other = self.task.changed(choices, name, self.sizes.seed + 3 + number)
            changed[name] = (self.labels(other), self.capture(self.task.prompts(other), section))
        return Study(
            run=lambda values: self.answers() if values is None else self.answers(section, values),
            score=self.score,
            labels=self.labels(choices),
            values=self.capture(self.test, section),
            mean=mean,
            changed=changed,
            seed=self.sizes.seed,
        )

    def _approximation(self, found: Study, base: Baseline, coders: Sequence[Coder]) -> dict[str, Any]:
        recon = [c.write(value, found.labels).recon for c, value in zip(coders, found.values, strict=True)]
        return {
            "sufficiency": asdict(study.sufficiency(found, base, recon)),
            "necessity": asdict(study.necessity(found, base, recon)),
        }

    def _control(
        self,
        found: Study,
        base: Baseline,
        dictionaries: Mapping[Fit, list[AttributeDictionary]],
        others: Mapping[str, Sequence[Coder]],
    ) -> dict[str, Any]:
        record = {}
        for name in self.values_per_attribute:
            attribute = Attribute.of(found, name)
            edits = {
                "truth": asdict(attribute.judge(found, attribute.values, 0.0, attribute.truth)),
                "none": asdict(study.no_edit(found, base, attribute)),
            }
            for how, fitted in dictionaries.items():
                edits[f"supervised_{how}"] = asdict(study.supervised_edit(found, attribute, fitted))
            for other, coders in others.items():
                sparse = study.sparse_edits(found, attribute, coders, self.sizes.edits)
                edits |= {f"{other} {budget}": asdict(control) for budget, control in sparse.items()}
            record[name] = edits
        return record

    def _interpretation(
        self, section: Section, found: Study, base: Baseline, others: Mapping[str, Sequence[Coder]]
    ) -> dict[str, Any]:
        """Latents as detectors of values, and what those that are good ones carry."""
        prompts = (self._train, self._judged)
        (values,) = [torch.cat(parts) for parts in zip(*(self.capture(p, section) for p in prompts), strict=True)]
        labels = {name: torch.cat([p.choices[name] for p in prompts]) for name in self.values_per_attribute}
        judged = torch.arange(len(values)) >= len(self._train)
        detectors: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        for name, (coder,) in others.items():
            codes, latents = dense_codes(coder.write(values, labels))
            seen = {a: detect(codes, labels[a], n, judged) for a, n in self.values_per_attribute.items()}
            null = {
                a: detect(codes, _shuffled(labels[a], self.sizes.seed), n, judged)
                for a, n in self.values_per_attribute.items()
            }
            detectors[name] = {a: _summary(seen[a], null[a]) for a in seen}
            good = torch.cat([latents[d.single[d.f1 >= INTERPRETABLE_F1]] for d in seen.values()]).unique()
            kept[name] = self._interpretable(found, base, coder, good)
        return {"detectors": detectors, "interpretable": kept}

    def _interpretable(self, found: Study, base: Baseline, coder: Coder, good: Tensor) -> dict[str, Any]:
        """The approximation by some latents alone: their terms on top of the rest's mean."""
        written = coder.write(found.values[0], found.labels)
        terms = written.values * torch.isin(written.latents, good)
        explained = (terms[..., None] * coder.rows[written.latents]).sum(1)
        recon = [found.mean[0] + explained - explained.mean(0)]
        return {
            "latents": len(good),
            "sufficiency": asdict(study.sufficiency(found, base, recon)),
            "necessity": asdict(study.necessity(found, base, recon)),
        }


def sae_coders(sae: SAE, task_latents: int, seed: int) -> dict[str, Callable[[Tensor], Coder]]:
    """The subject's SAE, and one of its kind trained on the task."""
    from saelab.evals.supervised.coders import of_sae, trained_on

    coders: dict[str, Callable[[Tensor], Coder]] = {"sae": lambda _: of_sae(sae)}
    if task_latents:
        coders["task_sae"] = lambda train: of_sae(trained_on(train, sae, task_latents, seed))
    return coders


def _shuffled(labels: Tensor, seed: int) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def _summary(seen: Detectors, null: Detectors) -> dict[str, Any]:
    occurs = ~seen.f1.isnan()
    return {
        "f1": float(seen.f1[occurs].mean()),
        "union_f1": float(seen.union_f1[occurs].mean()),
        "null_f1": float(null.f1[~null.f1.isnan()].mean()),
        "values": int(occurs.sum()),
        "detected": int((seen.f1[occurs] >= INTERPRETABLE_F1).sum()),
        "latents_per_value": float(seen.pure.double().mean()),
    }
