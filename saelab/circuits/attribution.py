"""Attribution patching: a first-order estimate of what patching each component would do, from two forward passes and
one backward pass (Nanda, 2023; Syed et al., 2310.10348)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saelab.circuits.anatomy import mlp_hook, z_hook
from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Report, Scores, quiet
from saelab.lm.model import LanguageModel


@dataclass(frozen=True)
class AttributionPatching:
    """`(clean - corrupted) . gradient of the clean run's score`, summed over positions: the estimated loss of score
    where a component is patched.

    Attributes:
        mlps: score these too.
    """

    mlps: bool = False
    batch_prompts: int = 16

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        anatomy, layers = passes.anatomy, range(passes.anatomy.n_layers)
        with_mlps = self.mlps and anatomy.has_mlps
        names = [z_hook(layer) for layer in layers] + [mlp_hook(layer) for layer in layers if with_mlps]
        heads = torch.zeros(len(pairs), anatomy.n_layers, anatomy.n_heads)
        mlps = torch.zeros(len(pairs), anatomy.n_layers)
        done = 0
        for rows, some in pairs.batches(self.batch_prompts):
            corrupted = passes.record(some.corrupted, names).values
            clean, slope = passes.gradients(some.clean, passes.first_streams(some.clean), names)
            gains = {name: (clean.values[name] - corrupted[name]).float() * slope[name].float() for name in names}
            for layer in layers:
                heads[rows, layer] = gains[z_hook(layer)].sum((1, 3)).cpu()
                if with_mlps:
                    mlps[rows, layer] = gains[mlp_hook(layer)].sum((1, 2)).cpu()
            done += len(rows)
            report(done, len(pairs))
        scored = mlps.mean(0) if with_mlps else None
        return Scores("attribution", heads.mean(0), passes.cost.stop(), True, scored, None, heads)
