"""One task on one model: its prompts, what the sites carry there, and what the model answers when that is replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from saelab.evals.supervised import sites
from saelab.evals.supervised.sites import Section, Site
from saelab.evals.supervised.study import Labels, Study, Values
from saelab.lm.model import LanguageModel
from saelab.tasks import Answers, Prompts, Task, answer


@dataclass(frozen=True)
class Sizes:
    """Prompts of each purpose, and the seed of all."""

    train: int
    test: int
    judged: int
    seed: int


@dataclass(frozen=True, eq=False)
class Work:
    """A task's prompts on a model. Everything is read at all sites at once, when it is first asked for.

    Attributes:
        sites: all that will be asked for.
        report: called with how many prompts have just been run.
    """

    lm: LanguageModel
    task: Task
    sizes: Sizes
    sites: Sequence[Site]
    report: Callable[[int], None] = lambda prompts: None
    _carried: dict[str, dict[Site, Tensor]] = field(default_factory=dict)

    @cached_property
    def prompts(self) -> Mapping[str, Prompts]:
        """`train` for fitting, `judged` for judging detectors, `test` for interventions, and for each attribute
        `changed ...`: what `test` says with another value of it."""
        sizes, task = self.sizes, self.task
        test = task.draw(sizes.test, "test", sizes.seed + 2)
        chosen = {
            "train": task.draw(sizes.train, "train", sizes.seed),
            "judged": task.draw(sizes.judged, "test", sizes.seed + 1),
            "test": test,
            **{f"changed {a}": task.changed(test, a, sizes.seed + 3 + i) for i, a in enumerate(task.attributes)},
        }
        return {name: task.prompts(choices) for name, choices in chosen.items()}

    @cached_property
    def values_per_attribute(self) -> dict[str, int]:
        return {name: len(values) for name, values in self.task.attributes.items()}

    def labels(self, name: str) -> Labels:
        """Of some prompts, the attributes alone."""
        return {attribute: self.prompts[name].choices[attribute] for attribute in self.task.attributes}

    def values(self, name: str, section: Section) -> list[Tensor]:
        """`[prompt, d]` of each site of a section."""
        if name not in self._carried:
            found = sites.capture(self.lm, self.prompts[name], self.sites, self.report)
            self._carried[name] = dict(zip(self.sites, found, strict=True))
        return [self._carried[name][site] for site in section]

    def score(self, answers: Answers) -> Tensor:
        """`[prompt]` of the test prompts' answers."""
        return answers.score(self.prompts["test"], self.task.metric)

    def answers(self, section: Section, values: Values) -> Answers:
        """To the test prompts, with the section's sites replaced."""
        test = self.prompts["test"]
        found = answer(self.lm, test, sites.replacing(self.lm, test, section, values))
        self.report(len(test))
        return found

    @cached_property
    def clean(self) -> Answers:
        return self.answers((), ())

    def competence(self, hook: str) -> dict[str, Any]:
        """How well the model does the task, and what ablating `hook` at each marked position costs."""
        test = self.prompts["test"]
        score, effects = float(self.score(self.clean).mean()), {}
        for mark in sites.marks(test):
            section = (Site(hook, None, mark),)
            (value,) = self.values("judged", section)
            ablated = self.answers(section, [value.mean(0).expand(len(test), -1)])
            effects[mark] = 1 - float(self.score(ablated).mean()) / score
        return {"accuracy": float(self.clean.correct(test).float().mean()), "score": score, "effects": effects}

    def study(self, section: Section) -> Study:
        return Study(
            run=lambda values: self.clean if values is None else self.answers(section, values),
            score=self.score,
            labels=self.labels("test"),
            values=self.values("test", section),
            mean=[value.mean(0) for value in self.values("train", section)],
            changed={
                name: (self.labels(f"changed {name}"), self.values(f"changed {name}", section))
                for name in self.task.attributes
            },
            seed=self.sizes.seed,
        )
