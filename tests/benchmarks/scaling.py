"""Cost per token against the width of the dictionary, beside the encoder's matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from saelab.activations.loader import Batch

from .cases import FLOORS, Case, saelab
from .contest import Recipe
from .peer_sparsify import Sparsify
from .progress import Progress
from .speed import Timing, expected, race

WIDTHS = (4096, 8192, 16384, 32768, 65536, 131072)


def cases() -> list[Case]:
    """One race a width: TopK k 32, sparsify, and the floors."""
    return [
        Case(
            f"topk, F {width:,}, k 32: cost per token",
            Recipe(n_latents=width),
            {"saelab": saelab("topk", k=32), "sparsify, fused Adam": partial(Sparsify, fused=True), **FLOORS},
            seconds=1.3 * width / 16384,
        )
        for width in WIDTHS
    ]


def sweep(batches: Sequence[Batch], progress: Progress) -> dict[int, list[Timing]]:
    """The timings of each width."""
    return {case.recipe.n_latents: race(case, batches, progress) for case in cases()}


def expected_seconds() -> float:
    return sum(expected(case) for case in cases())
