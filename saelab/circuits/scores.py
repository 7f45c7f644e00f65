"""What a method says of a model's parts, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from saelab.circuits.pairs import Pairs
from saelab.lm.model import LanguageModel
from saelab.registry import Registry

Report = Callable[[int, int], None]
"""Called with (done, total) while working."""


def quiet(done: int, total: int) -> None:
    """No report."""


@dataclass
class Cost:
    """What a method used.

    Attributes:
        prompts: it saw, clean and corrupted ones.
        forwards, backwards: passes, in prompts; one that begins half-way counts for its share of the layers.
        seconds: on the clock.
    """

    prompts: int = 0
    forwards: float = 0.0
    backwards: float = 0.0
    seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def stop(self) -> Cost:
        self.seconds = time.perf_counter() - self._started
        return self


@dataclass(frozen=True, eq=False)
class Edges:
    """Scores of edges.

    Attributes:
        sources, targets: names of what writes and of what reads: `input`, `a5.h3`, `m2`, and `a5.h3<q>`, `a5.g1<k>`,
            `a5.g1<v>` (heads of one group share a key and a value), `m2`, `logits`.
        values: `[source, target]`; 0 where there is no edge.
        exist: `[source, target]` bool.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: Tensor
    exist: Tensor


@dataclass(frozen=True, eq=False)
class Scores:
    """What a method says.

    Attributes:
        method: its name in `METHODS`.
        heads: `[layer, head]` float32. Where `signed`, above 0: helps the task, below: hurts it, in the metric's units
            (edge methods apart: see there); else how much a head seems to be part of the circuit.
        mlps: `[layer]`, where the method scores them.
        edges: where it has them.
        samples: `[prompt, layer, head]` that `heads` is the mean of, where it is one; in the order of the pairs.
        details: what else it found, JSON-able.
    """

    method: str
    heads: Tensor
    cost: Cost
    signed: bool = False
    mlps: Tensor | None = None
    edges: Edges | None = None
    samples: Tensor | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def strength(self) -> Tensor:
        """`[layer, head]`: how much a head matters, in whichever direction."""
        return strength(self.heads, signed=self.signed)

    def strongest(self, n: int | None = None) -> list[tuple[int, int]]:
        """The `n` heads (layer, head) of most strength (None: all)."""
        return strongest(self.strength, n)


def strength(values: Tensor, *, signed: bool) -> Tensor:
    """How much each matters, in whichever direction. Without a sign the least number is the weakest, below 0 too."""
    return values.abs() if signed else values


def strongest(strength: Tensor, n: int | None = None) -> list[tuple[int, int]]:
    """The `n` places (layer, head) of the largest of `[layer, head]` (None: all), the first ones first where they are
    equal."""
    order = strength.flatten().sort(descending=True, stable=True).indices[:n].tolist()
    return [divmod(i, strength.shape[1]) for i in order]


def ranks(strength: Tensor) -> Tensor:
    """`[layer, head]` int64: each one's place in `strongest`, from 1."""
    return strength.flatten().argsort(descending=True, stable=True).argsort().view_as(strength) + 1


class Method(Protocol):
    """A frozen dataclass of settings that can be called on a model and pairs. It may have `batch_prompts`, pairs at
    once, and `least_pairs`, without which it does not work."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores: ...


METHODS: Registry[Callable[..., Method]] = Registry("circuit method")
for _name, _class in {
    "patching": "patching:ActivationPatching",
    "denoising": "patching:Denoising",
    "mean_ablation": "patching:MeanAblation",
    "attribution": "attribution:AttributionPatching",
    "eap": "edges:EdgeAttribution",
    "eap_ig": "edges:IntegratedEdgeAttribution",
    "direct": "direct:DirectLogits",
    "mean_difference": "baselines:MeanDifference",
    "codes": "codes:DiscreteCodes",
    "code_edges": "codes:DiscreteCodeEdges",
    "sparse_codes": "sparse_codes:SparseCodes",
    "random": "baselines:Random",
}.items():
    METHODS.add(_name, f"saelab.circuits.{_class}")


def zeros(layers: int, heads: int) -> Tensor:
    return torch.zeros(layers, heads)
