"""Direct logit attribution: what heads say of the answer themselves, past all that comes after them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saelab.circuits.anatomy import mlp_hook, stream_hook, z_hook
from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes, score
from saelab.circuits.scores import Report, Scores, quiet
from saelab.lm.model import LanguageModel
from saelab.lm.resume import logits_at
from saelab.tasks import Prompts


@dataclass(frozen=True)
class DirectLogits:
    """`what a head writes at the answer's position . gradient of the score there`, in clean prompts, the final norm's
    scale held as it is. For a logit difference this is exact: all that is written, summed, is the score.

    Attributes:
        mlps: score these too.
    """

    mlps: bool = False
    batch_prompts: int = 16

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        passes.cost.prompts = len(pairs)
        anatomy, layers = passes.anatomy, range(passes.anatomy.n_layers)
        anatomy.check_additive()
        with_mlps = self.mlps and anatomy.has_mlps
        names = [z_hook(layer) for layer in layers] + [mlp_hook(layer) for layer in layers if with_mlps]
        heads = torch.zeros(len(pairs), anatomy.n_layers, anatomy.n_heads)
        mlps = torch.zeros(len(pairs), anatomy.n_layers)
        done = 0
        for rows, some in pairs.batches(self.batch_prompts):
            carried = passes.record(some.clean, [*names, stream_hook(anatomy.n_layers - 1)]).values
            slope = answer_direction(passes, some.clean, carried[stream_hook(anatomy.n_layers - 1)])
            at = (torch.arange(len(rows)), some.clean.end)
            for layer in layers:
                written = anatomy.written(layer, carried[z_hook(layer)][at])
                heads[rows, layer] = torch.einsum("rhm,rm->rh", written, slope).cpu()
                if with_mlps:
                    mlps[rows, layer] = (carried[mlp_hook(layer)][at].float() * slope).sum(1).cpu()
            done += len(rows)
            report(done, len(pairs))
        return Scores(
            "direct", heads.mean(0), passes.cost.stop(), True, mlps.mean(0) if with_mlps else None, None, heads
        )


def answer_direction(passes: Passes, prompts: Prompts, stream: Tensor) -> Tensor:
    """`[row, d_model]` float32: how the score changes with the last residual stream at the answer's position.

    Args:
        stream: what enters the last block.
    """
    found: list[Tensor] = []

    def read(value: Tensor, hook: Any) -> Tensor:
        found.append(value.detach().clone().requires_grad_())
        return found[0]

    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*hook_scale.*")  # the bridge says that rounding may differ
        hooks = [("ln_final.hook_in", read), ("ln_final.hook_scale", lambda scale, hook: scale.detach())]
        block = passes.anatomy.n_layers - 1
        logits = logits_at(passes.lm, stream, prompts.end, block=block, hooks=hooks)
        (slope,) = torch.autograd.grad(score(logits, prompts, passes.pairs.metric).sum(), found[0])
    passes.cost.forwards += len(prompts) / passes.anatomy.n_layers
    return slope[torch.arange(len(prompts)), prompts.end].float()
