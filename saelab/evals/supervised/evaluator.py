"""The evaluator: settings, the order of things, and what they are called in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from saelab.errors import SaelabError, SettingError, check_seed
from saelab.evals.base import NotMeasurable, Result, Subject
from saelab.evals.supervised import present, sites
from saelab.evals.supervised.work import Sizes, Work, sae_coders
from saelab.lm.model import LanguageModel
from saelab.tasks import TASKS, check_competence


@dataclass(frozen=True)
class Supervised:
    """Sufficiency and necessity of reconstructions, edits with few latents, and latents as detectors of attributes.

    A supervised dictionary writes an activation as the mean plus one vector for each attribute's value; it is fitted
    on training templates and measured, as the SAE is, on held-out ones. The SAE is measured where it reads, at the
    marked position of the prompts whose mean ablation costs most; an SAE of its kind trained on the task's own
    activations there stands beside it. Cross-sections where the SAE does not read are measured with supervised
    dictionaries alone.

    Source: Makelov, Lange and Nanda 2024 (arXiv 2405.08366), sections 3 and 4. Deviations: attributes and templates
    are those of `saelab.tasks`; agreement is of the likeliest answer, with the likeliest token beside it; F1 is chosen
    on training prompts and judged on held-out ones; intersections of latents are not searched.
    """

    task: Annotated[str, "prompts whose attributes are known"] = "ioi"
    sites: Annotated[
        tuple[str, ...], "further cross-sections: blocks.18.hook_resid_post@S2, or several joined by ' + '"
    ] = ()
    train_prompts: Annotated[int, "that dictionaries are fitted on"] = 1024
    test_prompts: Annotated[int, "on other templates, that interventions are measured on"] = 64
    judged_prompts: Annotated[int, "on other templates, that detectors are judged on"] = 256
    edits: Annotated[tuple[int, ...], "latents removed or added at most"] = (1, 2, 4, 8, 16)
    task_latents: Annotated[int, "of the SAE trained on the task's own activations (0: none)"] = 512
    min_accuracy: Annotated[float, "of the model, below which the task says nothing"] = 0.6
    seed: Annotated[int, "of prompts, training and bootstrap"] = 0

    def __post_init__(self) -> None:
        for key in ("train_prompts", "test_prompts", "judged_prompts"):
            if getattr(self, key) < 8:
                raise SettingError(key, f"must be at least 8, found {getattr(self, key)}")
        if not self.edits or min(self.edits) < 1:
            raise SettingError("edits", f"one or more numbers from 1 on, found {list(self.edits)}")
        if self.task not in TASKS:
            TASKS[self.task]  # says which there are
        check_seed(self.seed)
        for text in self.sites:
            sites.parse(text)

    def __call__(self, subject: Subject) -> Result:
        if subject.target_hook is not None:
            raise NotMeasurable("a transcoder does not stand for the activation that it reads")
        work = self._work(subject.model(), subject.report)
        model = subject.part("model", lambda: work.competence(subject.hook))
        try:
            check_competence(self.task, model["accuracy"], self.min_accuracy)
        except SaelabError as error:
            raise NotMeasurable(error.message) from error
        mark = max(model["effects"], key=lambda name: model["effects"][name])
        coders = sae_coders(subject.sae, self.task_latents, self.seed)
        own = subject.part("subject", lambda: work.section(sites.parse(f"{subject.hook}@{mark}"), coders))
        further = []
        for text in self.sites:
            section = sites.parse(text)
            here = coders if [(site.hook, site.head) for site in section] == [(subject.hook, None)] else {}
            further.append(subject.part(text, lambda section=section, here=here: work.section(section, here)))
        return present.result(self.task, model, own, further, n_examples=self.test_prompts)

    def _work(self, lm: LanguageModel, report: Callable[[int, int], None]) -> Work:
        try:
            task = TASKS[self.task](lm.tokenizer)
        except SaelabError as error:
            raise NotMeasurable(error.message) from error
        sizes = Sizes(self.train_prompts, self.test_prompts, self.judged_prompts, self.edits, self.seed)
        total = self._prompts(len(task.attributes))
        done = [0]

        def tell(prompts: int) -> None:
            done[0] += prompts
            report(min(done[0], total), total)

        return Work(lm, task, sizes, tell)

    def _prompts(self, attributes: int) -> int:
        """About how many prompts will run."""
        saes = 2 if self.task_latents else 1
        tests = 12 + 6 * saes + attributes * (2 + len(self.edits) * saes) + len(self.sites) * (8 + 3 * attributes)
        return self.test_prompts * tests + self.train_prompts * (1 + len(self.sites)) + 6 * self.judged_prompts
