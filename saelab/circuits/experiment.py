"""Tasks, methods and seeds on one model: a table of what each method is worth, made part by part.

A part is what takes long and can be kept: one method with one seed, some prompts of the ground truth, one curve. Parts
are written to a file as they are made; the same experiment goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from saelab import __version__
from saelab.circuits import faithfulness as faith
from saelab.circuits.outputs import head_outputs
from saelab.circuits.pairs import Pairs, competence, draw
from saelab.circuits.passes import Passes
from saelab.circuits.patching import ActivationPatching
from saelab.circuits.ranking import rank
from saelab.circuits.scores import METHODS, Cost, Method, Report, Scores
from saelab.circuits.truth import Truth, by_patching, published
from saelab.errors import SettingError
from saelab.files import read_json, sha256_json, write_json
from saelab.lm.model import LanguageModel

SCHEMA = 1
TRUTH_SEED, CURVE_SEED = 50_000, 60_000
"""Of prompts for the ground truth and for faithfulness: of the test split, so that no method sees their templates."""
_AT_ONCE = 16

Tell = Callable[[str, int, int], None]
"""Called with (what, done, total) while working."""


def silent(what: str, done: int, total: int) -> None:
    """No report."""


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        method: of `METHODS`; settings: its own. Its seed, where it has one, is the experiment's.
        prompts: pairs it may see.
    """

    method: str
    prompts: int = 32
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, seed: int) -> Method:
        """The method with its settings.

        Raises:
            SaelabError: unknown method or setting.
        """
        made = METHODS[self.method]
        known = {part.name for part in fields(made)}  # type: ignore[arg-type]
        for name in self.settings:
            if name not in known:
                raise SettingError(name, f"method '{self.method}' has no setting '{name}'")
        seeded = {"seed": seed} if "seed" in known else {}
        return made(**{**seeded, **self.settings})


STANDARD: Mapping[str, Entry] = {
    "patching": Entry("patching", 16),
    "denoising": Entry("denoising", 16),
    "mean ablation": Entry("mean_ablation", 16),
    "attribution": Entry("attribution"),
    "EAP": Entry("eap"),
    "EAP-IG": Entry("eap_ig"),
    "direct logits": Entry("direct"),
    "mean difference": Entry("mean_difference"),
    "codes (paper)": Entry("codes", 250),
    "codes (paper), null off": Entry("codes", 250, {"null": 20}),
    "code edges (paper)": Entry("code_edges", 250),
    "codes (ours)": Entry("sparse_codes", 64),
    "codes (ours), discrete": Entry("sparse_codes", 64, {"strongest": True}),
    "random": Entry("random"),
}
"""Every method as its authors have it, and our codes."""


@dataclass(frozen=True)
class Plan:
    """What to run on one task.

    Attributes:
        entries: by label.
        seeds: of prompts and methods; prompts are of the training split.
        truth_prompts, curve_prompts: pairs of the test split.
        curves: labels whose faithfulness is measured (with scores of the first seed); random_orders: to compare with.
        together: heads, those whose patching loses most by the ground truth, that are ablated together; sets: matched
            ones to compare with.
    """

    task: str
    entries: Mapping[str, Entry] = field(default_factory=lambda: STANDARD)
    seeds: int = 5
    truth_prompts: int = 48
    curve_prompts: int = 32
    curves: tuple[str, ...] = ()
    random_orders: int = 10
    together: Annotated[int, "0: not at all"] = 5
    sets: int = 20
    ablation: faith.Ablation = "corrupted"
    at_least: Annotated[float, "accuracy below which a model is held not to do the task"] = 0.8

    def __post_init__(self) -> None:
        for label in self.curves:
            if label not in self.entries:
                raise SettingError("curves", f"there is no entry '{label}'", fix=f"one of {', '.join(self.entries)}")


class Parts:
    """Parts of experiments on one model, in one file."""

    def __init__(self, path: Path, lm: LanguageModel):
        self._path = path
        head = {"schema": SCHEMA, "saelab": __version__, "model": lm.identity}
        old = read_json(path) if path.exists() else {}
        same = isinstance(old, dict) and all(old.get(key) == value for key, value in head.items())
        self._document: dict[str, Any] = {**head, "parts": old["parts"] if same else {}}

    def part(self, name: str, settings: Any, make: Callable[[], Any]) -> Any:
        """What `make` made of these settings: now, or before an interruption."""
        key = f"{name} {sha256_json(settings)[:16]}"
        parts = self._document["parts"]
        if key not in parts:
            parts[key] = make()
            write_json(self._path, self._document)
        return parts[key]


def run(lm: LanguageModel, plan: Plan, parts: Path, tell: Tell = silent) -> dict[str, Any]:
    """Run a plan, keeping parts in a file, and return what came out: JSON-able, see `saelab/circuits/README.md`.

    Raises:
        SaelabError: the model does not do the task (with the accuracy), or a setting is wrong.
    """
    kept = Parts(parts, lm)
    methods = {label: entry.build(0) for label, entry in plan.entries.items()}  # before hours of work
    truth_pairs = draw(plan.task, plan.truth_prompts, "test", TRUTH_SEED, lm)
    known = kept.part(
        f"{plan.task}/competence",
        [plan.truth_prompts, plan.at_least],
        lambda: asdict(competence(lm, truth_pairs, plan.at_least)),
    )
    exact = _truth(lm, plan, kept, truth_pairs, tell)
    truths = by_patching(exact, known["clean"] - known["corrupted"])
    others = published(lm, plan.task)
    judged = {f"{cut_off:g}": truth for cut_off, truth in truths.items()} | {truth.source: truth for truth in others}
    found = {label: _rows(lm, plan, kept, label, tell) for label in methods}
    return {
        "schema": SCHEMA,
        "saelab": __version__,
        "model": lm.identity,
        "task": plan.task,
        "shape": list(exact.heads.shape),
        "prompts": {"truth": plan.truth_prompts, "curves": plan.curve_prompts},
        "competence": known,
        "truths": {name: _truth_json(truth) for name, truth in judged.items()},
        "methods": {label: _judged(rows, judged) for label, rows in found.items()},
        "curves": _curves(lm, plan, kept, found, tell) if plan.curves else {},
        "together": _together(lm, plan, kept, exact, tell) if plan.together else None,
    }


def _truth(lm: LanguageModel, plan: Plan, kept: Parts, pairs: Pairs, tell: Tell) -> Scores:
    """Exact patching of all pairs, some at a time."""
    chunks = torch.arange(len(pairs)).split(_AT_ONCE)
    found: list[Tensor] = []
    for number, rows in enumerate(chunks):

        def make(rows: Tensor = rows, number: int = number) -> list[Any]:
            total = len(chunks) * 100
            report: Report = lambda done, of: tell("truth", number * 100 + 100 * done // of, total)  # noqa: E731
            scores = ActivationPatching(batch_prompts=_AT_ONCE)(lm, pairs.take(rows), report)
            assert scores.samples is not None
            return _rounded(scores.samples)

        found.append(torch.tensor(kept.part(f"{plan.task}/truth/{number}", [plan.truth_prompts], make)))
    samples = torch.cat(found)
    return Scores("patching", samples.mean(0), Cost(), True, samples=samples)


def _rows(lm: LanguageModel, plan: Plan, kept: Parts, label: str, tell: Tell) -> list[dict[str, Any]]:
    """What a method says with each seed."""
    entry = plan.entries[label]
    found: list[dict[str, Any]] = []
    for seed in range(plan.seeds):

        def make(seed: int = seed) -> dict[str, Any]:
            pairs = draw(plan.task, entry.prompts, "train", seed, lm)
            scores = entry.build(seed)(lm, pairs, lambda done, of: tell(f"{label}, seed {seed}", done, of))
            return scores_json(scores)

        settings = [entry.method, entry.prompts, dict(entry.settings)]
        found.append(kept.part(f"{plan.task}/{entry.method}/seed{seed}", settings, make))
    return found


def scores_json(scores: Scores, edges: int = 200) -> dict[str, Any]:
    """Scores as JSON; of edges the strongest."""
    cost = scores.cost
    found = {
        "method": scores.method,
        "heads": _rounded(scores.heads),
        "mlps": None if scores.mlps is None else _rounded(scores.mlps),
        "signed": scores.signed,
        "details": dict(scores.details),
        "cost": {key: round(getattr(cost, key), 3) for key in ("prompts", "forwards", "backwards", "seconds")},
    }
    if scores.edges is not None:
        values = scores.edges.values
        best = values.abs().flatten().sort(descending=True, stable=True).indices[:edges].tolist()
        places = [divmod(i, values.shape[1]) for i in best]
        found["edges"] = [[scores.edges.sources[i], scores.edges.targets[j], float(values[i, j])] for i, j in places]
    return found


def scores_of(document: Mapping[str, Any]) -> Scores:
    """The heads' scores of `scores_json`."""
    mlps = None if document["mlps"] is None else torch.tensor(document["mlps"])
    heads = torch.tensor(document["heads"])
    return Scores(document["method"], heads, Cost(**document["cost"]), document["signed"], mlps)


def _judged(rows: list[dict[str, Any]], truths: Mapping[str, Truth]) -> dict[str, Any]:
    ranked = [{name: asdict(rank(scores_of(row), truth)) for name, truth in truths.items()} for row in rows]
    return {"seeds": [{**row, "rankings": ranking} for row, ranking in zip(rows, ranked, strict=True)]}


def _curves(
    lm: LanguageModel, plan: Plan, kept: Parts, found: Mapping[str, list[dict[str, Any]]], tell: Tell
) -> dict[str, Any]:
    shared: dict[str, faith.Circuits] = {}

    def circuits() -> faith.Circuits:
        if "circuits" not in shared:
            pairs = draw(plan.task, plan.curve_prompts, "test", CURVE_SEED, lm)
            shared["circuits"] = faith.Circuits(lm, pairs, plan.ablation)
        return shared["circuits"]

    settings = [plan.curve_prompts, plan.ablation]
    made: dict[str, Any] = {"ablation": plan.ablation, "methods": {}, "random": []}
    for label in plan.curves:
        entry, scores = plan.entries[label], scores_of(found[label][0])
        for signed in (False, True) if scores.signed else (False,):
            order = faith.order_of(scores, signed=signed)

            def make(order: Tensor = order, label: str = label) -> dict[str, Any]:
                return asdict(faith.curve(circuits(), order, report=lambda a, b: tell(f"curve of {label}", a, b)))

            key = f"{plan.task}/curve/{entry.method}"
            one = kept.part(key, [*settings, order.tolist()], make)
            made["methods"].setdefault(label, {})["signed" if signed else "strength"] = one
    shape = tuple(torch.tensor(found[plan.curves[0]][0]["heads"]).shape)
    for number, order in enumerate(faith.random_orders((shape[0], shape[1]), plan.random_orders, seed=0)):

        def make_random(order: Tensor = order, number: int = number) -> dict[str, Any]:
            tell("random circuits", number, plan.random_orders)
            return asdict(faith.curve(circuits(), order, rounds=0))

        made["random"].append(kept.part(f"{plan.task}/random/{number}", settings, make_random))
    return made


def _together(lm: LanguageModel, plan: Plan, kept: Parts, exact: Scores, tell: Tell) -> dict[str, Any]:
    """The strongest heads ablated together. On prompts apart from those that found them."""
    heads = [head for head in exact.strongest(exact.heads.numel()) if exact.heads[head] > 0][: plan.together]

    def make() -> dict[str, Any]:
        tell("ablated together", 0, 1)
        pairs = draw(plan.task, plan.curve_prompts, "test", CURVE_SEED, lm)
        circuits = faith.Circuits(lm, pairs, plan.ablation)
        return asdict(faith.ablate_together(circuits, heads, output_norms(lm, pairs), plan.sets, seed=0))

    settings = [plan.curve_prompts, plan.ablation, plan.sets, heads]
    return kept.part(f"{plan.task}/together", settings, make)


def output_norms(lm: LanguageModel, pairs: Pairs) -> Tensor:
    """`[layer, head]`: the mean norm of what heads write at the answer's position in clean prompts."""
    passes = Passes(lm, pairs)
    found = head_outputs(passes, "end", _AT_ONCE, lambda done, total: None)
    anatomy = passes.anatomy
    clean = found.z[found.positive]
    return torch.stack(
        [anatomy.written(layer, clean[:, layer]).norm(dim=-1).mean(0) for layer in range(anatomy.n_layers)]
    ).cpu()


@dataclass(frozen=True)
class Row:
    """A method's means over seeds and their standard deviations.

    Attributes:
        auc: by truth.
    """

    label: str
    auc: dict[str, tuple[float, float]]
    average_precision: tuple[float, float]
    rank_correlation: tuple[float, float]
    prompts: int
    seconds: float


def table(document: Mapping[str, Any]) -> list[Row]:
    """Of what `run` returned, the method of the best AUC at the chosen cut-off first."""
    first = next(iter(document["truths"]))
    rows: list[Row] = []
    for label, made in document["methods"].items():
        seeds = made["seeds"]
        rows.append(
            Row(
                label,
                {name: _spread([seed["rankings"][name]["auc"] for seed in seeds]) for name in document["truths"]},
                _spread([seed["rankings"][first]["average_precision"] for seed in seeds]),
                _spread([seed["rankings"][first]["rank_correlation"] for seed in seeds]),
                int(seeds[0]["cost"]["prompts"]),
                float(np.mean([seed["cost"]["seconds"] for seed in seeds])),
            )
        )
    return sorted(rows, key=lambda row: -row.auc[first][0] if row.auc[first][0] == row.auc[first][0] else 0.0)


def _spread(values: list[float | None]) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    return (float(np.mean(known)), float(np.std(known))) if known else (float("nan"), float("nan"))


def _truth_json(truth: Truth) -> dict[str, Any]:
    effects = None if truth.effects is None else _rounded(truth.effects)
    heads = [[int(i) for i in place] for place in truth.members.nonzero()]
    return {"source": truth.source, "heads": heads, "effects": effects}


def _rounded(values: Tensor) -> list[Any]:
    """To six digits: enough for any table, and a third of the file."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(values.double().numpy()).tolist()
