"""Steering and ablation: what a concept's latents do to answers, against what they do to unrelated text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saelab.errors import SettingError, check_least, check_seed
from saelab.evals.base import Chart, NotMeasurable, Result, Subject, Table
from saelab.evals.interventions import Trial, ablate, area, ask, best_effect, project_out, push, task_of
from saelab.evals.labelled import Seen, check_concepts, heldout_text, mean_of, measured, problems, seen
from saelab.evals.probes import Floats, contrast, latent_sums, strongest
from saelab.lm.splice import EditFrom
from saelab.metrics import interval
from saelab.sae import SAE

LATENT, DIM, RANDOM = "latent", "dim", "random"
_LABELS = {LATENT: "latent", DIM: "difference in means", RANDOM: "random directions"}
_POINT = ("strength", "effect", "low", "high", "kl")


@dataclass(frozen=True)
class Steering:
    """Push activations towards a concept's second class, or ablate its latents, at all positions that the mask keeps.

    The latent is the one that probing ranks first on the concept's train examples; its decoder row points towards the
    class (or away, and is then reversed). Controls are the difference in means of the activations and random
    directions, all added at the same norm: `strength` times the mean norm of activations. The answers are those of a
    task (test split) that has the concept among its attributes:

        effect = mean over prompts of the change in [mean log p(answers of the second class) - the same of the first]
        KL     = E KL(unedited || edited), nats, over tokens of held-out text

    Reported are the largest effect while KL <= max_kl (straight between strengths) and the mean effect over KLs up to
    there. Ablation sets the first n latents to 0, what the SAE leaves unexplained stays, and reports what right answers
    lose against wrong ones; its controls are random latents that fire on the examples, and the difference in means
    projected out. Intervals are bootstrapped over prompts. A transcoder is steered at its target.
    """

    concepts: Annotated[tuple[str, ...] | None, "by name (none: all there are)"] = None
    examples: Annotated[int, "labelled tokens of each concept, that latents and directions come from"] = 1000
    prompts: Annotated[int, "of the task"] = 32
    contexts: Annotated[int, "held-out contexts that the KL is taken on, spread evenly over those stored"] = 8
    context_tokens: Annotated[int, "the first so many tokens of each"] = 64
    strengths: Annotated[tuple[float, ...], "norms of what is added, relative to the activations' mean norm"] = (
        0.05,
        0.1,
        0.2,
        0.4,
    )
    latents: Annotated[tuple[int, ...], "how many are ablated"] = (1, 5, 20)
    random_directions: Annotated[int, "that are averaged"] = 2
    max_kl: Annotated[float, "side effect that is put up with, nats per token"] = 0.1
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of examples, prompts, random directions and the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_concepts(self.concepts)
        check_least(self, 1, "examples", "prompts", "contexts", "context_tokens", "latents", "random_directions")
        check_least(self, 1, "bootstrap_rounds")
        if not self.strengths or list(self.strengths) != sorted(set(self.strengths)) or self.strengths[0] < 0:
            raise SettingError("strengths", f"must ascend from 0 or more, found {list(self.strengths)}")
        if not self.max_kl > 0:
            raise SettingError("max_kl", f"must be above 0, found {self.max_kl}")
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        found, reasons = measured(subject, self.concepts, lambda name: self.concept(subject, name))
        return self._result(found, reasons)

    def concept(self, subject: Subject, name: str) -> dict[str, Any]:
        """All that is measured of one concept, JSON-able."""
        lm = subject.model()
        task_name, task = task_of(lm, name)
        plan = self._plan(subject, name)
        norm = subject.store.width(subject.target) ** 0.5 / subject.store.scaling(subject.target, centre=False).factor
        asked = ask(task_name, task, name, plan.second, self.prompts, self.seed)
        trial = Trial(lm, lm.hook(subject.hook), lm.hook(subject.target), subject.mask, asked, *self._text(subject))
        return {
            "task": task_name,
            "prompts": len(asked.prompts),
            "accuracy": trial.unedited.accuracy,
            "score": float(trial.unedited.right.mean()),
            "latent": int(plan.ranked[0]),
            "steering": {kind: self._curve(trial, rows * norm) for kind, rows in plan.directions.items()},
            "ablation": [self._ablated(trial, *edit) for edit in plan.ablations(subject.sae, self.latents)],
        }

    def _plan(self, subject: Subject, name: str) -> Plan:
        read, written = (seen(subject, name, self.examples, self.seed, hook) for hook in (subject.hook, subject.target))
        return Plan.of(subject.sae, read, written, randoms=self.random_directions, seed=self.seed)

    def _text(self, subject: Subject) -> tuple[Tensor, Tensor]:
        text = heldout_text(subject.store)
        count = min(self.contexts, len(text.tokens))
        rows = torch.linspace(0, len(text.tokens) - 1, count).round().long()
        tokens = text.tokens[rows, : self.context_tokens]
        return tokens, torch.arange(tokens.shape[1]) < text.length[rows][:, None]

    def _curve(self, trial: Trial, directions: Tensor) -> dict[str, Any]:
        """Effects of adding these `[n, d]`, each at every strength, averaged over them."""
        outcomes = [[trial.outcome(push(s * row)) for row in directions] for s in self.strengths]
        before = trial.unedited.towards
        effects = np.stack([np.mean([one.towards - before for one in row], 0) for row in outcomes], 1)
        kls = [float(np.mean([one.kl for one in row])) for row in outcomes]
        n = len(effects)

        def best(total: Floats) -> float:
            return best_effect(kls, (total / n).tolist(), self.max_kl)

        means = effects.mean(0).tolist()
        points = [
            {"strength": s, "effect": mean, **self._between(column[:, None], lambda t: float(t[0]) / n, mean), "kl": kl}
            for s, mean, column, kl in zip(self.strengths, means, effects.T, kls, strict=True)
        ]
        value = best(effects.sum(0))
        between = self._between(effects, best, value)
        return {"points": points, "best": value, **between, "area": area(kls, means, self.max_kl)}

    def _ablated(self, trial: Trial, what: str, n: int, edit: EditFrom) -> dict[str, Any]:
        after = trial.outcome(edit)
        lost = trial.unedited.right - after.right
        value = float(lost.mean())
        between = self._between(lost[:, None], lambda total: float(total[0]) / len(lost), value)
        return {"what": what, "n": n, "lost": value, **between, "kl": after.kl}

    def _between(self, columns: Floats, statistic: Callable[[Floats], float], value: float) -> dict[str, float]:
        found = interval(columns, statistic, seed=self.seed, rounds=self.bootstrap_rounds) or (value, value)
        return dict(zip(("low", "high"), found, strict=True))

    def _result(self, found: dict[str, Any], reasons: dict[str, str]) -> Result:
        metrics: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        for kind in _LABELS:
            name = f"steering_{kind}_effect"
            rows = {concept: part["steering"][kind] for concept, part in found.items()}
            metrics[name], intervals[name] = mean_of(
                {concept: (row["best"], row["low"], row["high"]) for concept, row in rows.items()}
            )
            metrics[f"steering_{kind}_area"] = sum(row["area"] for row in rows.values()) / len(rows)
        for at, edit in enumerate(next(iter(found.values()))["ablation"]):
            name = f"ablation_{edit['what']}_n{edit['n']}"
            rows = {concept: part["ablation"][at] for concept, part in found.items()}
            metrics[name], intervals[name] = mean_of(
                {concept: (row["lost"], row["low"], row["high"]) for concept, row in rows.items()}
            )
        return Result(
            metrics,
            n_tokens=self.contexts * self.context_tokens,
            n_examples=sum(part["prompts"] for part in found.values()),
            intervals=intervals,
            meaning={name: self._meaning(name) for name in metrics},
            tables=[_steering_table(found), _ablation_table(found)],
            charts=[_chart(concept, part) for concept, part in found.items()],
            not_measurable=reasons,
        )

    def _meaning(self, name: str) -> str:
        family, what, measure = name.split("_")
        best = "0 is expected" if what == RANDOM else "higher is better"
        if family == "ablation":
            gone = {LATENT: "latents of the concept", RANDOM: "random latents", DIM: "difference in means"}[what]
            return f"Lead of right over wrong answers (nats) lost by ablating {gone} ({measure[1:]}); {best}."
        along = f"pushing along the {_LABELS[what]}"
        if measure == "area":
            return f"Mean effect of {along}, in nats, over KLs from 0 to {self.max_kl} on unrelated text; {best}."
        return f"Largest effect (nats towards answers of the second class) of {along} at a KL <= {self.max_kl}; {best}."


@dataclass(frozen=True, eq=False)
class Plan:
    """What is done to a concept of two classes.

    Attributes:
        second: the class that is steered towards.
        ranked: `[lat]`, by difference in means on train examples, the largest first.
        firing: all latents that fire on the examples, in random order.
        directions: `[n, d]`, by kind, of norm 1.
        mean: `[d]` of the examples' activations.
    """

    second: str
    ranked: Tensor
    firing: Tensor
    directions: Mapping[str, Tensor]
    mean: Tensor

    @classmethod
    def of(cls, sae: SAE, read: Seen, written: Seen, *, randoms: int, seed: int) -> Plan:
        """`read`, `written`: the concept at the SAE's hook and at its target, the same but for transcoders.

        Raises:
            NotMeasurable: it has other than two classes, or no examples to learn from.
        """
        concept = read.concept
        if len(concept.classes) != 2:
            raise NotMeasurable(f"it has {len(concept.classes)} classes, and steering takes two")
        problems(concept)
        code = sae.encode(read.x.to(sae.W_dec))
        signed = latent_sums(code, contrast(concept.is_class(1), ~concept.test))
        ranked = strongest(signed.abs(), len(signed))
        positive, among = written.concept.is_class(1), ~written.concept.test
        generator = torch.Generator().manual_seed(seed)
        directions = {
            LATENT: sae.W_dec[ranked[:1]].float().cpu() * signed[ranked[0]].sign().float(),
            DIM: (contrast(positive, among) @ written.x.double()).float()[None],
            RANDOM: torch.randn(randoms, written.x.shape[1], generator=generator),
        }
        firing = code.firing_counts().nonzero()[:, 0].cpu()
        shuffled = firing[torch.randperm(len(firing), generator=generator)]
        unit = {kind: normalize(rows, dim=1) for kind, rows in directions.items()}
        return cls(concept.classes[1], ranked, shuffled, unit, written.x.mean(0))

    def ablations(self, sae: SAE, counts: Sequence[int]) -> Iterator[tuple[str, int, EditFrom]]:
        """Of the first latents, of as many random ones as of the most of them, and of the difference in means."""
        for n in counts:
            yield LATENT, n, ablate(sae, self.ranked[:n])
        yield RANDOM, max(counts), ablate(sae, self.firing[: max(counts)])
        yield DIM, 1, project_out(self.directions[DIM][0], self.mean)


def _steering_table(found: Mapping[str, Any]) -> Table:
    rows = [
        [
            concept,
            part["task"],
            part["accuracy"],
            _LABELS[kind],
            *(point[key] for key in _POINT),
            curve["best"],
            curve["area"],
        ]
        for concept, part in found.items()
        for kind, curve in part["steering"].items()
        for point in curve["points"]
    ]
    columns = ("concept", "task", "model's accuracy", "direction", *_POINT, "best", "area")
    return Table("Steering by strength", columns, rows, "best, area: of the direction's whole curve.")


def _ablation_table(found: Mapping[str, Any]) -> Table:
    rows = [
        [concept, part["score"], _LABELS[row["what"]], row["n"], row["lost"], row["low"], row["high"], row["kl"]]
        for concept, part in found.items()
        for row in part["ablation"]
    ]
    columns = ["concept", "right - wrong", "ablated", "n", "lost", "low", "high", "KL"]
    return Table("Ablation", columns, rows, "Nats by which right answers lead unedited, and how many of them are lost.")


def _chart(concept: str, part: Mapping[str, Any]) -> Chart:
    series: dict[str, list[list[float | str]]] = {
        _LABELS[kind]: [[0.0, 0.0], *([p["kl"], p["effect"], p["low"], p["high"]] for p in curve["points"])]
        for kind, curve in part["steering"].items()
    }
    return Chart(
        f"Steering: {concept}",
        "KL on unrelated text (nats)",
        "effect on answers (nats)",
        series,
        caption=f"Latent {part['latent']}: what is won at which cost, a point for each strength.",
    )
