"""What an evaluator is: settings in, a result out that says how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from saelab.activations.store import Store
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
    """

    sae: SAE
    store: Store
    hook: str
    mask: Mask
    model: Callable[[], LanguageModel]
    report: Callable[[int, int], None] = lambda done, total: None
    target_hook: str | None = None
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The hook that is reconstructed."""
        return self.target_hook or self.hook


@dataclass(frozen=True)
class Result:
    """What came out. A metric that cannot be measured is absent from `metrics` and explained in
    `not_measurable`; it is never 0.

    Attributes:
        metrics: by name.
        n_tokens: held-out tokens behind them.
        intervals: 95 % bootstrap intervals of some of them.
        details: histograms and the like.
    """

    metrics: dict[str, float]
    n_tokens: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    not_measurable: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in list(self.metrics.items()):
            if not math.isfinite(value):
                del self.metrics[name]
                self.not_measurable.setdefault(name, f"came out as {value}")


class Evaluator(Protocol):
    """A frozen dataclass of settings that can be called on a subject."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, subject: Subject) -> Result: ...


EVALUATORS: Registry[Callable[..., Evaluator]] = Registry("evaluator")
for _name, _class in {
    "reconstruction": "Reconstruction",
    "downstream": "Downstream",
    "density": "Density",
}.items():
    EVALUATORS.add(_name, f"saelab.evals.{_name}:{_class}")
