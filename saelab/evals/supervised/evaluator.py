"""The evaluator: settings, the order of things, and what they are called in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from saelab.errors import SaelabError, SettingError, check_least, check_seed
from saelab.evals.base import NotMeasurable, Result, Subject
from saelab.evals.supervised import present, sites
from saelab.evals.supervised.coders import of_sae, trained_on
from saelab.evals.supervised.section import Make, Measured
from saelab.evals.supervised.sites import Section, Site
from saelab.evals.supervised.work import Sizes, Work
from saelab.tasks import TASKS, Task, check_competence


@dataclass(frozen=True)
class Supervised:
    """Sufficiency and necessity of reconstructions, edits with few latents, and latents as detectors of attributes.

    A supervised dictionary writes an activation as the mean plus one vector for each attribute's value; it is fitted
    on training templates and measured, as the SAE is, on held-out ones. The SAE is measured where it reads, at a marked
    position of the prompts. Other cross-sections of the model are measured without it. Beside them stands an SAE of its
    kind that was trained on the task's own activations there.

    Source: Makelov, Lange and Nanda 2024 (arXiv 2405.08366). Deviations: attributes and templates are those of
    `saelab.tasks`; agreement is of the likeliest answer, with the likeliest token beside it; what a latent stands for
    is chosen on training prompts, by F1 above that of always firing, and judged on held-out ones; genders of names are
    not searched.
    """

    task: Annotated[str, "prompts whose attributes are known"] = "ioi"
    mark: Annotated[str | None, "position where the SAE is measured (none: where ablation changes the score most)"] = (
        None
    )
    sites: Annotated[
        tuple[str, ...], "further cross-sections: blocks.18.hook_resid_post@S2, or several joined by ' + '"
    ] = ()
    train_prompts: Annotated[int, "that dictionaries are fitted on"] = 1024
    test_prompts: Annotated[int, "on other templates, that interventions are measured on"] = 64
    judged_prompts: Annotated[int, "on other templates, that detectors are judged on"] = 256
    edits: Annotated[tuple[int, ...], "latents removed or added at most"] = (2, 4, 8, 32)
    task_latents: Annotated[int, "of the SAE trained on the task's own activations (0: none)"] = 512
    min_accuracy: Annotated[float, "of the model, below which the task says nothing"] = 0.6
    seed: Annotated[int, "of prompts, training and bootstrap"] = 0

    def __post_init__(self) -> None:
        TASKS[self.task]  # an unknown one is refused with those there are
        check_least(self, 8, "train_prompts", "test_prompts", "judged_prompts")
        if not self.edits or min(self.edits) < 1 or list(self.edits) != sorted(set(self.edits)):
            raise SettingError("edits", f"one or more numbers that rise from 1 on, found {list(self.edits)}")
        if self.task_latents < 0:
            raise SettingError("task_latents", f"must be 0 or more, found {self.task_latents}")
        check_seed(self.seed)
        for text in self.sites:
            sites.parse(text)

    def __call__(self, subject: Subject) -> Result:
        if subject.target != subject.hook:
            raise NotMeasurable("a transcoder's output cannot stand in for what it reads")
        work = self._work(subject, self._task(subject))
        model = subject.part("model", lambda: work.competence(subject.hook))
        try:
            check_competence(self.task, model["accuracy"], self.min_accuracy)
        except SaelabError as error:
            raise NotMeasurable(error.message) from error
        mark = self.mark or max(model["effects"], key=lambda name: abs(model["effects"][name]))
        records = [
            subject.part(
                " + ".join(map(str, section)),
                lambda section=section: Measured(work, section, self._others(section, subject), self.edits).record(),
            )
            for section in self._sections(subject, mark)
        ]
        return present.result(self.task, model, records, n_examples=self.test_prompts)

    def _task(self, subject: Subject) -> Task:
        try:
            return TASKS[self.task](subject.model().tokenizer)
        except SaelabError as error:
            raise NotMeasurable(error.message) from error

    def _work(self, subject: Subject, task: Task) -> Work:
        marks = sites.marks(task.prompts(task.draw(1, "test", self.seed)))
        sections = self._sections(subject, self.mark or "end")
        own = [Site(subject.hook, None, mark) for mark in marks]
        known = list(dict.fromkeys([*own, *(site for section in sections for site in section)]))
        sizes = Sizes(self.train_prompts, self.test_prompts, self.judged_prompts, self.seed)
        passes = 1 + len(marks) + sum(self._passes(section, task, subject) for section in sections)
        return Work(subject.model(), task, sizes, known, self._progress(subject.report, task, passes))

    def _sections(self, subject: Subject, mark: str) -> list[Section]:
        """Where the SAE reads, and then the others."""
        return list(dict.fromkeys([(Site(subject.hook, None, mark),), *map(sites.parse, self.sites)]))

    def _others(self, section: Section, subject: Subject) -> Mapping[str, Make]:
        """The subject's SAE where it reads, and one of its kind trained on the task."""
        others: dict[str, Make] = {}
        if {(site.hook, site.head) for site in section} == {(subject.hook, None)}:
            others["sae"] = lambda _: of_sae(subject.sae)
        if self.task_latents:
            others["task_sae"] = lambda values: of_sae(trained_on(values, subject.sae, self.task_latents, self.seed))
        return others

    def _passes(self, section: Section, task: Task, subject: Subject) -> int:
        return Measured.passes(len(task.attributes), len(self._others(section, subject)), len(self.edits))

    def _progress(self, report: Callable[[int, int], None], task: Task, passes: int) -> Callable[[int], None]:
        """Told of prompts that have run; those of all purposes are read once, and those for testing run edited."""
        total = self.train_prompts + self.judged_prompts + self.test_prompts * (1 + len(task.attributes) + passes)
        done = [0]

        def ran(prompts: int) -> None:
            done[0] += prompts
            report(min(done[0], total), total)

        return ran
