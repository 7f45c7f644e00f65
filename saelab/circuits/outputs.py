"""What heads say in clean and corrupted prompts, one vector each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saelab.circuits.anatomy import z_hook
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Report

Position = Literal["mean", "end"]
"""Over which positions: all of them, or the one whose next token is asked for."""


@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """Attributes:
    z: `[example, layer, head, d_head]` float32: clean prompts, then corrupted ones.
    positive: `[example]` bool: which are clean.
    """

    z: Tensor
    positive: Tensor


def head_outputs(passes: Passes, position: Position, batch_prompts: int, report: Report) -> HeadOutputs:
    """One pass over all prompts."""
    anatomy, pairs = passes.anatomy, passes.pairs
    names = [z_hook(layer) for layer in range(anatomy.n_layers)]
    z = torch.zeros(2, len(pairs), anatomy.n_layers, anatomy.n_heads, anatomy.d_head)
    done = 0
    for rows, some in pairs.batches(batch_prompts):
        for side, prompts in zip(z, (some.clean, some.corrupted), strict=True):
            weight = _weights(prompts.tokens.shape[1], prompts.end, position)
            carried = passes.record(prompts, names).values
            for layer, name in enumerate(names):
                value = carried[name].float().cpu()
                side[rows, layer] = torch.einsum("rphd,rp->rhd", value, weight)
        done += len(rows)
        report(done, len(pairs))
    return HeadOutputs(z.flatten(0, 1), torch.arange(2 * len(pairs)) < len(pairs))


def _weights(positions: int, end: Tensor, position: Position) -> Tensor:
    """`[row, position]` weights of a mean."""
    at = torch.arange(positions)
    if position == "end":
        return (at == end[:, None]).float()
    return (at <= end[:, None]).float() / (end[:, None] + 1)
