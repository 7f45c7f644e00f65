"""What an evaluator is: settings in, a result out that says how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from saelab.activations.store import Store
from saelab.errors import SaelabError
from saelab.lm.mask import Mask
from saelab.lm.model import LanguageModel
from saelab.registry import Registry
from saelab.sae import SAE


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what.

    Attributes:
        sae: in inference form, reading raw activations.
        store: held-out activations and contexts.
        hook: what the SAE reads.
        mask: the policy the SAE was trained under.
        model: loads the language model, once, for those who need it.
        report: called with (done, total) while working.
        target_hook: what it reconstructs (None: what it reads).
        shared: what evaluators may keep for the next subject, where many SAEs are measured one after another;
            entries are keyed by all that they depend on.
        part: makes a named part of a long evaluation, or gives what was made of it before an interruption. Parts are
            JSON-able and depend on nothing but the subject and the evaluator's settings.
    """

    sae: SAE
    store: Store
    hook: str
    mask: Mask
    model: Callable[[], LanguageModel]
    report: Callable[[int, int], None] = lambda done, total: None
    target_hook: str | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    part: Callable[[str, Callable[[], Any]], Any] = lambda name, make: make()

    @property
    def target(self) -> str:
        """The hook that is reconstructed."""
        return self.target_hook or self.hook


@dataclass(frozen=True)
class Table:
    """Numbers that belong together. A cell is a text, a number, or None for what was not measured."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    caption: str = ""


@dataclass(frozen=True)
class Chart:
    """A picture of numbers, drawn by the report.

    Attributes:
        series: by name: `[x, y]` points, or `[x, y, low, high]` with an interval. Bars have a text for x.
        caption: what is to be seen, in a sentence.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[Sequence[float | str]]]
    kind: Literal["line", "bars", "scatter"] = "line"
    log_x: bool = False
    log_y: bool = False
    caption: str = ""


@dataclass(frozen=True)
class Result:
    """What came out. A metric that cannot be measured is absent from `metrics` and explained in
    `not_measurable`; it is never 0.

    Attributes:
        metrics: by name.
        n_tokens: held-out tokens behind them.
        n_examples: examples or prompts behind them, where these are counted rather than tokens.
        intervals: 95 % bootstrap intervals of some of them.
        meaning: what each metric is, in a sentence, with the direction that is better.
        tables, charts: what does not fit into one number.
        details: histograms and the like.
    """

    metrics: dict[str, float]
    n_tokens: int
    n_examples: int = 0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    meaning: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    details: dict[str, Any] = field(default_factory=dict)
    not_measurable: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in list(self.metrics.items()):
            if not math.isfinite(value):
                del self.metrics[name]
                self.not_measurable.setdefault(name, f"came out as {value}")


class NotMeasurable(SaelabError):  # noqa: N818  (a finding, not a failure)
    """Nothing can be measured here, for a reason that goes into `eval.json`; no failure of the evaluation."""


class Evaluator(Protocol):
    """A frozen dataclass of settings that can be called on a subject.

    Raises, on being called:
        NotMeasurable: the model, the text or the dictionary does not allow any of its metrics.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, subject: Subject) -> Result: ...


EVALUATORS: Registry[Callable[..., Evaluator]] = Registry("evaluator")
for _name, _class in {
    "reconstruction": "Reconstruction",
    "downstream": "Downstream",
    "density": "Density",
    "probing": "Probing",
    "steering": "Steering",
    "erasure": "Erasure",
    "bidirectional": "Bidirectional",
    "supervised": "Supervised",
    "saebench_core": "SaebenchCore",
}.items():
    EVALUATORS.add(_name, f"saelab.evals.{_name}:{_class}")
