"""What screened selection finds of the exact support, on real held-out activations, and whether training minds.

An SAE is measured untrained and after some hundred steps; budgets per token, batch and latent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from saelab.activations import Store
from saelab.kernels import Budget, PerBatch, PerLatent, PerToken, Selected, dispatch, select
from saelab.sae.coders import OneStep

from . import data
from .contest import Recipe, random_start
from .own import Saelab
from .progress import Progress
from .verdict import Verdict

RECIPE = Recipe(n_latents=16384, steps=300, warmup_steps=30)
_LEAST_RECALL = 0.9999
_TOKENS = 16_384


@dataclass(frozen=True)
class Recall:
    """Of all entries of the exact support, those that screening found as well."""

    sae: str
    budget: str
    screened_in: str
    entries: int
    missed: int

    @property
    def share(self) -> float:
        return 1 - self.missed / max(self.entries, 1)

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"recall": self.share}


def measure_all(store: Store, progress: Progress) -> list[Recall]:
    torch.manual_seed(0)
    mine = Saelab(RECIPE, random_start(RECIPE, 0), kind="topk", settings={"k": RECIPE.k})
    heldout = torch.cat(list(islice(data.heldout(store), 5)))[:_TOKENS]
    found = _of(mine, "untrained", heldout)
    for batch in islice(data.training(store, RECIPE.batch_tokens, seed=0), RECIPE.steps):
        mine.step(batch)
    found += _of(mine, f"after {RECIPE.steps} steps", heldout)
    progress.advance(expected_seconds())
    progress.say("screening: " + ", ".join(f"{one.sae}, {one.budget} {one.share:.6f}" for one in found))
    return found


def _of(mine: Saelab, name: str, heldout: Tensor) -> list[Recall]:
    sae = mine.member.sae
    assert isinstance(sae.coder, OneStep)
    n_latents, k, n_tokens = RECIPE.n_latents, RECIPE.k, RECIPE.batch_tokens
    budgets: dict[str, Budget] = {
        "per token": PerToken(k),
        "per batch": PerBatch(k * n_tokens),
        "per latent": PerLatent(torch.full((n_latents,), max(1, k * n_tokens // n_latents))),
    }
    out = []
    for kind, budget in budgets.items():
        entries = missed = 0
        for x in heldout.split(n_tokens):
            seen = sae.see(x)
            with torch.no_grad():
                exact, screened = (
                    select(seen.x, sae.coder.W_enc, sae.coder.b_enc, budget, screened=flag) for flag in (False, True)
                )
            wanted = _keys(exact)
            entries += len(wanted)
            missed += int((~torch.isin(wanted, _keys(screened))).sum())
        out.append(Recall(name, kind, dispatch.screening(heldout).label, entries, missed))
    return out


def _keys(found: Selected) -> Tensor:
    support = found.support
    return support.rows * support.n_latents + support.latents[: support.nnz].long()


def judge(found: list[Recall]) -> list[Verdict]:
    return [
        Verdict(
            f"screened in {one.screened_in}, {one.sae}, budget {one.budget}: recall of {one.entries:,} entries",
            one.share,
            f"at least {_LEAST_RECALL}",
            None,
            one.share >= _LEAST_RECALL,
        )
        for one in found
    ]


def expected_seconds() -> float:
    return 60.0
