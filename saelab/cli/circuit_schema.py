"""The whole configuration of an experiment on circuits, as one record; see `saelab.cli.schema` for runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from saelab.circuits import METHODS, STANDARD, Entry, Plan
from saelab.circuits.faithfulness import Ablation
from saelab.cli.schema import check_name
from saelab.config import Choice, OneOf
from saelab.errors import SettingError, check_least, did_you_mean
from saelab.lm.model import ModelSpec
from saelab.tasks import TASKS


def _check_method(choice: Choice) -> None:
    Entry(choice.kind, settings=choice.settings).build(seed=0)


@dataclass(frozen=True)
class MethodSpec:
    """One row of the table."""

    method: Annotated[Choice, OneOf(METHODS, hidden=("seed",), check=_check_method), "the method and its settings"]
    prompts: Annotated[int, "pairs of a clean and a corrupted prompt that it may see"] = Entry.prompts

    def __post_init__(self) -> None:
        self.entry.check()

    @property
    def entry(self) -> Entry:
        return Entry(self.method.kind, self.prompts, self.method.settings)


def _standard() -> dict[str, MethodSpec]:
    """Every method as its authors have it, and our codes."""
    return {label: MethodSpec(Choice(one.method, dict(one.settings)), one.prompts) for label, one in STANDARD.items()}


@dataclass(frozen=True)
class TruthSpec:
    """What methods are held against: exact patching, and published circuits where there are any."""

    prompts: Annotated[int, "pairs that exact patching sees, of templates that no method sees"] = Plan.truth_prompts
    cut_offs: Annotated[
        tuple[float, ...], "share of the whole effect from which on a head is in the circuit; the chosen one first"
    ] = Plan.cut_offs

    def __post_init__(self) -> None:
        check_least(self, 2, "prompts")


@dataclass(frozen=True)
class CurveSpec:
    """What circuits of growing size keep, and what is left without them."""

    methods: Annotated[tuple[str, ...], "of the table, by name"] = Plan.curves
    prompts: Annotated[int, "pairs, of templates that no method sees"] = Plan.curve_prompts
    random: Annotated[int, "orders of random heads to compare with"] = Plan.random_orders
    ablation: Annotated[
        Ablation, "what heads outside carry: activations of the corrupted prompt, their mean, nothing"
    ] = Plan.ablation

    def __post_init__(self) -> None:
        check_least(self, 2, "prompts")
        check_least(self, 0, "random")


@dataclass(frozen=True)
class TogetherSpec:
    """The heads whose patching loses most, ablated together, beside sets of others that are like them."""

    heads: Annotated[int, "how many (0: this is left out)"] = Plan.together
    sets: Annotated[int, "others, matched in layer and in how much they write"] = Plan.sets

    def __post_init__(self) -> None:
        check_least(self, 0, "heads")
        check_least(self, 0, "sets")


@dataclass(frozen=True)
class ShownSpec:
    """The circuit that is drawn, and marked in what is exported."""

    heads: Annotated[int, "a method's strongest"] = 20
    method: Annotated[str | None, "whose (none: the first of curves.methods, or else of the table)"] = None

    def __post_init__(self) -> None:
        check_least(self, 1, "heads")


@dataclass(frozen=True)
class FeatureSpec:
    """What latents of `sae` do in the task."""

    prompts: Annotated[int, "pairs that they are looked at on"] = 32
    latents: Annotated[int, "the strongest, which are listed and patched one by one"] = 20

    def __post_init__(self) -> None:
        check_least(self, 2, "prompts")
        check_least(self, 1, "latents")


@dataclass(frozen=True)
class CircuitConfig:
    """One experiment: which heads of a model do a task, by some methods."""

    name: Annotated[str, "the experiment is kept in <runs_dir>/<name>"]
    model: Annotated[ModelSpec, "the language model"]
    task: Annotated[str, "ioi, greater_than, agreement, docstring, induction, or any other task"]
    methods: Annotated[dict[str, MethodSpec], "name -> method, as the table is to call them (none: every method)"] = (
        field(default_factory=_standard)
    )
    seeds: Annotated[int, "each method is run so many times, on other prompts"] = Plan.seeds
    at_least: Annotated[float, "accuracy below which the model is held not to do the task"] = Plan.at_least
    truth: Annotated[TruthSpec, "what methods are held against"] = field(default_factory=TruthSpec)
    curves: Annotated[CurveSpec, "what circuits keep"] = field(default_factory=CurveSpec)
    together: Annotated[TogetherSpec, "heads ablated together"] = field(default_factory=TogetherSpec)
    circuit: Annotated[ShownSpec, "the circuit that is shown"] = field(default_factory=ShownSpec)
    sae: Annotated[str | None, "the directory of a run on this model, whose latents are looked at too"] = None
    features: Annotated[FeatureSpec, "how they are looked at"] = field(default_factory=FeatureSpec)
    runs_dir: Annotated[str, "where experiments are kept"] = "runs"

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.task not in TASKS:
            raise SettingError("task", f"unknown task '{self.task}'", fix=did_you_mean(self.task, TASKS))
        if not self.methods:
            raise SettingError("methods", "there is none", fix="leave the key out, and every method is run")
        files = [file_name(label) for label in self.methods]
        if len(set(files)) < len(files):
            raise SettingError("methods", f"names differ by more than punctuation, found {', '.join(self.methods)}")
        check_least(self, 1, "seeds")
        named = [("curves.methods", name) for name in self.curves.methods]
        named += [("circuit.method", self.circuit.method)] if self.circuit.method is not None else []
        for key, name in named:
            if name not in self.methods:
                raise SettingError(key, f"'{name}' is not among the methods", fix=did_you_mean(name, self.methods))
        try:
            _ = self.plan
        except SettingError as error:
            raise SettingError(f"truth.{error.key}", error.message, fix=error.fix) from error

    def only(self, names: Sequence[str]) -> CircuitConfig:
        """The same with some of its methods (none: all).

        Raises:
            SettingError: one is not among them.
        """
        if not names:
            return self
        for name in names:
            if name not in self.methods:
                raise SettingError("--only", f"no method is called '{name}'", fix=did_you_mean(name, self.methods))
        methods = {label: spec for label, spec in self.methods.items() if label in names}
        curves = replace(self.curves, methods=tuple(label for label in self.curves.methods if label in names))
        drawn = self.circuit if self.circuit.method in names else replace(self.circuit, method=None)
        return replace(self, methods=methods, curves=curves, circuit=drawn)

    @property
    def plan(self) -> Plan:
        """What the library is asked for."""
        return Plan(
            self.task,
            entries={label: spec.entry for label, spec in self.methods.items()},
            seeds=self.seeds,
            truth_prompts=self.truth.prompts,
            cut_offs=self.truth.cut_offs,
            curve_prompts=self.curves.prompts,
            curves=self.curves.methods,
            random_orders=self.curves.random,
            ablation=self.curves.ablation,
            together=self.together.heads,
            sets=self.together.sets,
            at_least=self.at_least,
        )

    @property
    def shown(self) -> str:
        """The method whose circuit is drawn."""
        return self.circuit.method or next(iter([*self.curves.methods, *self.methods]))


def file_name(label: str) -> str:
    """A method's name as a file's: `codes (paper)` is `codes-paper`."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower() or "method"
