"""How well single latents, and unions of few, stand for the values of an attribute.

Source: Makelov, Lange and Nanda 2024 (arXiv 2405.08366), section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Detectors:
    """For every value of an attribute, the latents that detect it, chosen on some examples and judged on others.

    Attributes:
        single: `[value]` int64, the latent with the best F1; its sign: `[value]`, 1 or -1.
        f1: `[value]`, its F1 on the examples it is judged on; nan for values that do not occur there.
        union_f1: `[value]`, of the union chosen greedily.
        pure: `[value]` int64: latents that fire for this value at a precision of at least 0.9.
    """

    single: Tensor
    sign: Tensor
    f1: Tensor
    union_f1: Tensor
    pure: Tensor


def f1(found: Tensor, true: Tensor) -> Tensor:
    """`[example, ...]` bool twice -> `[...]`: `2 TP / (2 TP + FP + FN)`, 0 where there is nothing to find."""
    hits = (found & true).sum(0)
    return 2 * hits / (found.sum(0) + true.sum(0)).clamp_min(1)


def detect(codes: Tensor, labels: Tensor, n_values: int, judged: Tensor, union: int = 10) -> Detectors:
    """Args:
    codes: `[example, latent]`. Signed ones count as two detectors a latent: above 0, and below.
    labels: `[example]` int64, below `n_values`.
    judged: `[example]` bool: kept out of every choice; all numbers are of these.
    union: latents in a union at most; one is added while F1 grows on the examples for choosing.
    """
    signed = bool((codes < 0).any())
    active = torch.cat([codes > 0, codes < 0], 1) if signed else codes > 0
    n_latents = codes.shape[1]
    choose, judge = active[~judged], active[judged]
    columns: dict[str, list[Tensor]] = {name: [] for name in ("best", "f1", "union", "pure")}
    for value in range(n_values):
        true, held = labels[~judged] == value, labels[judged] == value
        scores = f1(choose, true[:, None])
        best = int(scores.argmax())
        nothing = torch.tensor(torch.nan)
        columns["best"].append(torch.tensor(best))
        columns["f1"].append(f1(judge[:, best], held) if held.any() else nothing)
        columns["union"].append(
            f1(judge[:, _union(choose, true, scores, union)].any(1), held) if held.any() else nothing
        )
        fired = choose.sum(0)
        precise = (choose & true[:, None]).sum(0) >= 0.9 * fired
        columns["pure"].append((precise & (fired >= 10)).sum())
    found = {name: torch.stack(column) for name, column in columns.items()}
    sign = torch.where(found["best"] >= n_latents, -1, 1)
    return Detectors(found["best"] % n_latents, sign, found["f1"], found["union"], found["pure"])


def _union(active: Tensor, true: Tensor, scores: Tensor, most: int) -> list[int]:
    """Latents whose union has the best F1 that adding one by one comes to."""
    candidates = scores.topk(min(100, len(scores))).indices
    chosen: list[int] = []
    on, reached = torch.zeros(len(true), dtype=torch.bool), -1.0
    for _ in range(most):
        tried = f1(active[:, candidates] | on[:, None], true[:, None])
        best, which = tried.max(0)
        if float(best) <= reached:
            break
        chosen.append(int(candidates[which]))
        on, reached = on | active[:, chosen[-1]], float(best)
    return chosen
