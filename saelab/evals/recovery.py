"""What an SAE of the subject's kind finds where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Annotated, Any

from saelab.errors import SaelabError, SettingError, check_least, check_seed, did_you_mean
from saelab.evals.base import Chart, NotMeasurable, Result, Subject, Table
from saelab.sae.model import Identity
from saelab.testing.fitting import fit, heldout, measure
from saelab.testing.trials import EVALUATION_TOKENS, WORLDS, compared, from_world, train_spec

DICTIONARIES = {
    "trained": "an SAE of this kind and settings, trained on the world",
    "untrained": "the same, not trained",
    "random": "a random dictionary, with codes by orthogonal matching pursuit",
    "oracle": "the true dictionary, with codes by orthogonal matching pursuit",
}
_COLUMNS = ("mcc", "recovered", "support_f1", "l0", "fvu", "dead")


@dataclass(frozen=True)
class Recovery:
    """An SAE of the subject's kind and settings is trained on planted worlds (`saelab.testing.planted`), whose features
    are known: how many does it find?

        mcc         mean cosine of true features matched one to one with decoder rows (Hungarian algorithm)
        recovered   share of true features that some row has a cosine above 0.9 with
        support_f1  F1 of "the latent is active" as a detector of "its feature is", mean over matched pairs

    Width and sparsity follow the world (as many latents as features, its own L0), all other settings are the subject's;
    training is that of `saelab bench planted`. It says what the method can do, not what this run has learned. Means are
    over worlds and seeds; a seed draws features, weights and tokens. Features are compared up to sign where the world's
    or the SAE's codes have signs.
    """

    worlds: Annotated[tuple[str, ...], "of saelab.testing.trials"] = ("zipf", "hierarchy")
    seeds: Annotated[int, "how many; each trains once on each world"] = 2
    steps: Annotated[int, "of training"] = 1000
    seed: Annotated[int, "the first of them"] = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "seeds", "steps")
        check_seed(self.seed)
        if not self.worlds:
            raise SettingError("worlds", "names none", fix=did_you_mean("", WORLDS))
        for name in self.worlds:
            if name not in WORLDS:
                raise SettingError("worlds", f"unknown planted world '{name}'", fix=did_you_mean(name, WORLDS))

    def __call__(self, subject: Subject) -> Result:
        identity = subject.sae.identity
        if identity.transcoder:
            raise NotMeasurable("planted worlds have one hook: nothing there is a transcoder's target")
        total = len(self.worlds) * self.seeds
        found: dict[str, dict[str, list[dict[str, float]]]] = {}
        reasons: dict[str, str] = {}
        for at, name in enumerate(self.worlds):
            try:
                rows = []
                for number in range(self.seeds):
                    seed = self.seed + number
                    rows.append(subject.part(f"{name} {seed}", lambda n=name, s=seed: self.trial(identity, n, s)))
                    subject.report(at * self.seeds + number + 1, total)
            except SaelabError as refused:
                reasons[f"recovery on {name}"] = refused.message
                continue
            found[name] = {dictionary: [row[dictionary] for row in rows] for dictionary in DICTIONARIES}
        if not found:
            raise NotMeasurable("; ".join(f"{name}: {why}" for name, why in reasons.items()))
        return self._result(found, reasons)

    def trial(self, identity: Identity, name: str, seed: int) -> dict[str, dict[str, float]]:
        """Metrics of `saelab.testing.fitting.measure` by dictionary, JSON-able.

        Raises:
            SaelabError: the kind is unknown here, or refuses the world or the settings.
        """
        world, spec = replace(WORLDS[name], seed=seed), train_spec(name, self.steps, seed)
        settings = identity.settings | from_world(identity.kind, name)
        sample = heldout(world, EVALUATION_TOKENS, seed)
        trained, untrained = (fit(world, identity.kind, settings, spec, steps=steps) for steps in (None, 0))
        return {
            "trained": measure(world, trained, sample),
            "untrained": measure(world, untrained, sample),
            **compared(name, seed),
        }

    def _result(self, found: Mapping[str, Mapping[str, list[dict[str, float]]]], reasons: dict[str, str]) -> Result:
        def mean(dictionary: str, metric: str) -> float:
            return fmean(row[metric] for world in found.values() for row in world[dictionary])

        names = {"trained": "recovery"} | {name: f"recovery_{name}" for name in DICTIONARIES if name != "trained"}
        values = {f"{names[d]}_{metric}": mean(d, metric) for d in DICTIONARIES for metric in _MEANING}
        return Result(
            values,
            n_tokens=0,
            n_examples=EVALUATION_TOKENS * self.seeds * len(found),
            meaning={
                f"{names[d]}_{m}": _MEANING[m].format(who=DICTIONARIES[d]) for d in DICTIONARIES for m in _MEANING
            },
            tables=[_table(found)],
            charts=[_chart(found)],
            not_measurable=reasons,
        )


_MEANING = {
    "mcc": "MCC of {who}: mean cosine of true features matched one to one with its rows; higher is better, 1 is all.",
    "recovered": "Share of true features that {who} has a row within a cosine of 0.9 of; higher is better.",
    "support_f1": "F1 of matched latents as detectors of their features, of {who}; higher is better, 1 is perfect.",
}


def _table(found: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> Table:
    rows: list[list[str | float | None]] = []
    for world, dictionaries in found.items():
        extra = sorted({name for row in dictionaries["trained"] for name in row} - set(_COLUMNS))
        for name, trials in dictionaries.items():
            mccs = [trial["mcc"] for trial in trials]
            own = "; ".join(f"{key} {fmean(trial[key] for trial in trials):.3f}" for key in extra)
            means = [fmean(trial[column] for trial in trials) for column in _COLUMNS]
            rows.append([world, name, len(trials), *means, min(mccs), max(mccs), own])
    columns = ["world", "dictionary", "seeds", *_COLUMNS, "lowest mcc", "highest mcc", "the world's own"]
    return Table("Recovery of planted features", columns, rows, "Means over seeds. " + "; ".join(_SAID) + ".")


_SAID = [f"{name}: {what}" for name, what in DICTIONARIES.items()]


def _chart(found: Mapping[str, Mapping[str, list[dict[str, float]]]]) -> Chart:
    series: dict[str, list[list[float | str]]] = {
        dictionary: [
            [world, fmean(trial["mcc"] for trial in dictionaries[dictionary])] for world, dictionaries in found.items()
        ]
        for dictionary in DICTIONARIES
    }
    caption = "Mean cosine of true features with the latents matched to them, of this kind of SAE and of three others."
    return Chart("Recovery of planted features", "world", "MCC", series, kind="bars", caption=caption)
