"""What a circuit does alone, and what is left without it.

Source: MIB, Mueller et al. 2025 (arXiv 2504.13151), for faithfulness, CPR and CMD; completeness after Marks et al. 2024
(arXiv 2403.19647). Deviation: circuits are sets of heads; MLPs are never ablated and answer to what the heads say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from saelab.circuits.anatomy import mlp_hook, stream_hook, z_hook
from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes
from saelab.circuits.patching import component_means, merged, replacing, spread
from saelab.circuits.scores import Report, Scores, quiet
from saelab.errors import SettingError
from saelab.lm.model import LanguageModel
from saelab.lm.resume import NamedHook
from saelab.metrics import interval

Ablation = Literal["corrupted", "mean", "zero"]
"""What ablated heads carry: what they carry in the corrupted prompt ("patching", "counterfactual"); their mean over all
tokens; nothing. The last two leave the first token's as it is."""
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's sizes of circuits, as shares of all heads."""


@dataclass(frozen=True)
class Curve:
    """What is kept by circuits of growing size.

    Attributes:
        ablation: of all heads outside.
        sizes: heads of each circuit.
        shares: of all heads, as MIB has them; an axis for `cpr` and `cmd`.
        faithfulness: `(score with all heads outside ablated - empty) / (whole model - empty)`.
        intervals: 95 % of it, resampling prompts.
        completeness: the same with the circuit ablated and all others left; 0 where all that matters is in the circuit.
            Empty where it was not measured.
        cpr: area under faithfulness over shares: higher is better, and may be above 1.
        cmd: area between faithfulness and 1: lower is better.
    """

    ablation: Ablation
    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    faithfulness: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    completeness: tuple[float, ...]
    cpr: float
    cmd: float


class Circuits:
    """Runs sets of heads of a model on pairs, all others ablated.

    Args:
        ablation: of what is outside.
    """

    def __init__(self, lm: LanguageModel, pairs: Pairs, ablation: Ablation = "corrupted", batch_prompts: int = 32):
        self.passes = Passes(lm, pairs)
        self.anatomy, self.pairs = self.passes.anatomy, pairs
        self.ablation: Ablation = ablation
        self._batches = [(rows, some, self._others(some)) for rows, some in pairs.batches(batch_prompts)]

    def _others(self, some: Pairs) -> dict[str, Tensor]:
        """What ablated components carry, by hook: `[row, position, ...]`."""
        if self.ablation == "corrupted":
            return self.passes.record(some.corrupted, self._names).values
        return spread(self._constants, some)

    @cached_property
    def _names(self) -> list[str]:
        layers = range(self.anatomy.n_layers)
        return [stream_hook(0), *map(z_hook, layers), *(mlp_hook(layer) for layer in layers if self.anatomy.has_mlps)]

    @cached_property
    def _constants(self) -> dict[str, Tensor]:
        means = component_means(self.passes, self._names)
        return means if self.ablation == "mean" else {name: torch.zeros_like(mean) for name, mean in means.items()}

    def scores(self, heads: Tensor, mlps: Tensor | None = None, *, inputs: bool = True) -> Tensor:
        """`[prompt]` scores of a circuit.

        Args:
            heads: `[layer, head]` bool: which are in it; mlps: `[layer]` bool (None: all are).
            inputs: whether the embedding is.
        """
        found = torch.zeros(len(self.pairs))
        for rows, some, others in self._batches:
            hooks = [] if inputs else [replacing(stream_hook(0), others[stream_hook(0)])]
            for layer in range(self.anatomy.n_layers):
                if not heads[layer].all():
                    hooks.append(_keeping(z_hook(layer), heads[layer][:, None], others[z_hook(layer)]))
                if mlps is not None and not mlps[layer]:
                    hooks.append(replacing(mlp_hook(layer), others[mlp_hook(layer)]))
            found[rows] = self.passes.edited(some.clean, hooks)
        return found

    @property
    def everything(self) -> Tensor:
        return torch.ones(self.anatomy.n_layers, self.anatomy.n_heads, dtype=torch.bool)


def _keeping(name: str, inside: Tensor, others: Tensor) -> NamedHook:
    """A hook that keeps what is inside and carries `others` elsewhere."""
    return name, lambda value, hook: torch.where(inside.to(value.device), value, merged(value, others))


def curve(
    circuits: Circuits,
    order: Tensor,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    rounds: int = 200,
    complement: bool = True,
    report: Report = quiet,
) -> Curve:
    """Faithfulness of circuits that take heads in an order.

    Args:
        order: `[head]` numbers of heads (layer times heads plus head), the first first.
        complement: measure completeness too, for as many runs again.
    """
    whole, empty = circuits.scores(circuits.everything), circuits.scores(~circuits.everything)
    if not float(whole.mean() - empty.mean()):
        raise SettingError("ablation", "ablating all heads changes nothing, so that no circuit can be found")
    sizes = tuple(int(share * len(order)) for share in shares)
    known: dict[int, tuple[Tensor, Tensor | None]] = {}
    for done, size in enumerate(dict.fromkeys(sizes)):
        inside = first(order, size, circuits)
        known[size] = circuits.scores(inside), circuits.scores(~inside) if complement else None
        report(done + 1, len(set(sizes)))
    kept = [known[size][0] for size in sizes]
    left = [known[size][1] for size in sizes]
    faithful = tuple(faithfulness(scores, whole, empty) for scores in kept)
    return Curve(
        circuits.ablation,
        sizes,
        tuple(shares),
        faithful,
        tuple(_interval(scores, whole, empty, seed, rounds) for scores in kept),
        tuple(faithfulness(scores, whole, empty) for scores in left if scores is not None),
        area(shares, faithful),
        area(shares, [abs(1 - value) for value in faithful]),
    )


def order_of(scores: Scores, *, signed: bool = False) -> Tensor:
    """`[head]` numbers of heads, strongest first (or most helpful first: what CPR is about)."""
    values = scores.heads if signed else scores.strength
    return values.flatten().sort(descending=True, stable=True).indices


def random_orders(shape: tuple[int, int], count: int, seed: int) -> list[Tensor]:
    """Orders to compare with."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randperm(shape[0] * shape[1], generator=rng) for _ in range(count)]


def first(order: Tensor, size: int, circuits: Circuits) -> Tensor:
    """`[layer, head]` bool: the first `size` heads."""
    inside = torch.zeros_like(circuits.everything).flatten()
    inside[order[:size]] = True
    return inside.view_as(circuits.everything)


def faithfulness(kept: Tensor, whole: Tensor, empty: Tensor) -> float:
    """Of mean scores."""
    return float((kept.double().mean() - empty.double().mean()) / (whole.double().mean() - empty.double().mean()))


def _interval(kept: Tensor, whole: Tensor, empty: Tensor, seed: int, rounds: int) -> tuple[float, float] | None:
    sums = torch.stack([kept, whole, empty], 1).double().numpy()
    return interval(sums, lambda t: (t[0] - t[2]) / (t[1] - t[2]), seed=seed, rounds=rounds) if rounds else None


def area(shares: Sequence[float], values: Sequence[float]) -> float:
    """By the trapezoidal rule."""
    steps = zip(shares, shares[1:], values, values[1:], strict=False)
    return sum((b - a) * (low + high) / 2 for a, b, low, high in steps)
