"""What latents say of a task's attributes at one cross-section, and which of them stand for something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saelab.evals.supervised.detectors import KINDS, Described, Detected, Examples, describe, detect, detectors
from saelab.evals.supervised.sites import Section
from saelab.evals.supervised.study import Coder
from saelab.evals.supervised.work import Work

INTERPRETABLE = 0.6
"""From this skill on a latent stands for its property, and is kept or removed with its like."""


def interpret(work: Work, section: Section, coders: Sequence[Coder]) -> tuple[dict[str, Any], list[Tensor]]:
    """A JSON-able record, and the latents of each site that stand for something.

    Latents of all sites are taken together; chosen on training prompts, judged on held-out templates.
    """
    train, judged = work.labels("train"), work.labels("judged")
    both = {name: torch.cat([train[name], judged[name]]) for name in train}
    values = zip(work.values("train", section), work.values("judged", section), strict=True)
    dense = [c.write(torch.cat(pair), both).dense() for c, pair in zip(coders, values, strict=True)]
    active = detectors(torch.cat([codes for codes, _ in dense], 1))
    n, sizes = len(next(iter(train.values()))), work.values_per_attribute
    sides = Examples(active[:n], train), Examples(active[n:], judged)
    shuffled = sides[0].shuffled(work.sizes.seed), sides[1].shuffled(work.sizes.seed)
    described, null = describe(*sides, sizes), describe(*shuffled, sizes)
    record = {
        "attributes": {a: _detection(detect(*sides, a, size), detect(*shuffled, a, size)) for a, size in sizes.items()},
        "alive": int(described.alive.sum()),
        "described": _kinds(described),
        "described_null": sum(_kinds(null).values()),
    }
    return record, _latents(described.skill >= INTERPRETABLE, [known for _, known in dense])


def _latents(good: Tensor, known: Sequence[Tensor]) -> list[Tensor]:
    """Of each site, those with a good detector. `good` `[detector]`: of all sites' columns, once or (signed) twice."""
    columns = good.view(-1, sum(map(len, known))).any(0)
    return [latents[here] for latents, here in zip(known, columns.split([len(k) for k in known]), strict=True)]


def _kinds(described: Described) -> dict[str, int]:
    """How many detectors stand for a property, by its kind."""
    good = described.skill >= INTERPRETABLE
    return {kind: int((good & (described.kind == number)).sum()) for number, kind in enumerate(KINDS)}


def _detection(found: Detected, null: Detected) -> dict[str, Any]:
    """Means over the values that occur."""
    occurs = ~found.f1.isnan()
    return {
        "f1": float(found.f1[occurs].mean()),
        "skill": float(found.skill[occurs].mean()),
        "union_f1": float(found.union_f1[occurs].mean()),
        "null_f1": float(null.f1[occurs].mean()),
        "null_skill": float(null.skill[occurs].mean()),
        "values": int(occurs.sum()),
        "detected": int((found.skill[occurs] >= INTERPRETABLE).sum()),
        "pure": float(found.pure.double().mean()),
    }
