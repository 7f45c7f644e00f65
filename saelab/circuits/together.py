"""Heads ablated together, beside sets of heads that are like them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.circuits.faithfulness import Ablation, Circuits
from saelab.circuits.outputs import head_outputs
from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes
from saelab.circuits.scores import quiet
from saelab.lm.model import LanguageModel


@dataclass(frozen=True)
class Together:
    """What ablating some heads together costs, beside sets that are like them.

    Attributes:
        heads: (layer, head).
        loss: of score, mean over prompts.
        matched: losses of the other sets.
    """

    ablation: Ablation
    heads: tuple[tuple[int, int], ...]
    loss: float
    matched: tuple[float, ...]


def ablate_together(
    circuits: Circuits, heads: Sequence[tuple[int, int]], norms: Tensor, sets: int, seed: int
) -> Together:
    """Ablate heads together, and `sets` sets of as many others matched in layer and output norm.

    Args:
        norms: `[layer, head]`: how much heads write.
    """
    whole = circuits.scores(circuits.everything).mean()

    def loss(chosen: Sequence[tuple[int, int]]) -> float:
        kept = circuits.everything
        for layer, head in chosen:
            kept[layer, head] = False
        return float(whole - circuits.scores(kept).mean())

    others = matched_sets(heads, norms, sets, seed)
    return Together(circuits.ablation, tuple(heads), loss(heads), tuple(loss(chosen) for chosen in others))


def matched_sets(
    heads: Sequence[tuple[int, int]], norms: Tensor, sets: int, seed: int, nearest: int = 6
) -> list[list[tuple[int, int]]]:
    """Sets of heads outside `heads`: for each of these one of the `nearest` ones in layer and logarithm of the norm (a
    layer weighs as much as a factor of e^0.25)."""
    rng = torch.Generator().manual_seed(seed)
    layers, width = norms.shape
    logs = norms.clamp_min(1e-12).log()
    place = torch.arange(layers)[:, None].expand(layers, width)
    found: list[list[tuple[int, int]]] = []
    for _ in range(sets):
        taken = torch.zeros(layers, width, dtype=torch.bool)
        for layer, head in heads:
            taken[layer, head] = True
        chosen: list[tuple[int, int]] = []
        for layer, head in heads:
            far = (logs - logs[layer, head]).abs() + 0.25 * (place - layer).abs()
            near = far.masked_fill(taken, torch.inf).flatten().topk(nearest, largest=False).indices
            pick = int(near[torch.randint(nearest, (1,), generator=rng)])
            chosen.append((pick // width, pick % width))
            taken[chosen[-1]] = True
        found.append(chosen)
    return found


def output_norms(lm: LanguageModel, pairs: Pairs) -> Tensor:
    """`[layer, head]`: the mean norm of what heads write at the answer's position in clean prompts."""
    passes = Passes(lm, pairs)
    found = head_outputs(passes, "end", 16, quiet)
    anatomy = passes.anatomy
    clean = found.z[found.positive]
    return torch.stack(
        [anatomy.written(layer, clean[:, layer]).norm(dim=-1).mean(0) for layer in range(anatomy.n_layers)]
    ).cpu()
