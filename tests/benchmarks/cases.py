"""What is raced against what, at which sizes, and how far ahead saelab has to be.

Peers run as they come and at their best: with Adam's fused implementation, and with sparse activations or without
their optional checks where that is faster. Bars are on the form they name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from saelab.machine import keep_freed_memory

from .contest import Make, Recipe, Runner, Start, random_start
from .floors import PRODUCTS, Product
from .own import Saelab
from .peer_dictionary_learning import DictionaryLearning
from .peer_saelens import SAELens
from .peer_sparsify import Sparsify

L0 = 48.0
"""Active latents per token at which ReLU and JumpReLU are raced."""
_BANDWIDTH = 0.05
"""Of JumpReLU's window, in units of a pre-activation's standard deviation at the start."""


@dataclass(frozen=True)
class Bar:
    """The time of entry `of` over that of entry `over` has to be at least, or at most, `limit`.

    Attributes:
        aim: what one would like.
    """

    of: str
    over: str
    limit: float
    aim: float | None = None
    at_most: bool = False

    def met(self, ratio: float) -> bool:
        return ratio <= self.limit if self.at_most else ratio >= self.limit


@dataclass(frozen=True)
class Case:
    """A race: entries take turns on the same batches, from the same weights.

    Attributes:
        name: as shown; recipe: its sizes.
        entries: by name, how to make each.
        bars: what has to hold between them.
        norm: of encoder and decoder rows at the start.
        l0: where given, biases or thresholds at the start are set so that as many latents are active.
        loss_grad: whether batches carry gradients.
        seconds: expected for a round on two cores, to say how long is left.
    """

    name: str
    recipe: Recipe
    entries: Mapping[str, Make]
    bars: tuple[Bar, ...] = ()
    norm: float = 1.0
    l0: float | None = None
    loss_grad: bool = False
    seconds: float = 5.0


def saelab(kind: str, precision: Literal["auto", "exact"] = "auto", **settings: Any) -> Make:
    return partial(Saelab, kind=kind, settings=settings, precision=precision)


def saelens(architecture: str, *, fused: bool = False, **settings: Any) -> Make:
    return partial(SAELens, architecture=architecture, settings=settings, fused=fused)


def memory_kept(recipe: Recipe, start: Start, *, make: Make) -> Runner:
    """A peer in a process whose allocator is set as saelab sets its own."""
    keep_freed_memory()
    return make(recipe, start)


def product(dtype: torch.dtype) -> Make:
    return partial(Product, dtype=dtype)


FLOORS: dict[str, Make] = {name: product(dtype) for name, dtype in PRODUCTS.items()}


def _sparse(k: int) -> dict[str, Any]:
    """SAELens' sparse activations; its rescaling by decoder norms fails on them on a CPU, and is off."""
    return {"k": k, "use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}


def topk_entries(k: int) -> dict[str, Make]:
    """Everyone that has TopK."""
    return {
        "saelab": saelab("topk", k=k),
        "saelab, exact": saelab("topk", "exact", k=k),
        "sparsify": Sparsify,
        "sparsify, fused Adam": partial(Sparsify, fused=True),
        "SAELens": saelens("topk", k=k),
        "SAELens, sparse, fused Adam": saelens("topk", fused=True, **_sparse(k)),
        "dictionary_learning": DictionaryLearning,
        "dictionary_learning, fused Adam": partial(DictionaryLearning, fused=True),
    }


WIDE = Recipe(n_latents=16384)
SMALL = Recipe(n_latents=2048, batch_tokens=512)
_THRESHOLDED = replace(WIDE, lr=1e-5)
"""A rate at which L0 stays where it was set for as long as the race lasts."""


def _against(peer: str, architecture: str, mine: str, least: float, **settings: Any) -> Case:
    """A variant beside SAELens' counterpart, as it comes and with fused Adam."""
    return Case(
        f"{mine}, F 16,384, k 32",
        WIDE,
        {
            "saelab": saelab(mine, k=32),
            peer: saelens(architecture, k=32, **settings),
            f"{peer}, fused Adam": saelens(architecture, fused=True, k=32, **settings),
        },
        (Bar(peer, "saelab", least),),
        loss_grad=mine == "gradient_topk",
    )


def _own_jumprelu(recipe: Recipe, start: Start) -> Saelab:
    settings = {"penalty": "l0", "coefficient": 1.0, "target_l0": None, "warmup_frac": 0.0, "pre_act": 0.0}
    settings |= {"threshold": -start.bias, "bandwidth": _BANDWIDTH}
    return Saelab(recipe, replace(start, bias=0.0), kind="jumprelu", settings=settings)


def _lens_jumprelu(recipe: Recipe, start: Start, *, fused: bool = False) -> SAELens:
    settings = {"jumprelu_init_threshold": -start.bias, "jumprelu_bandwidth": _BANDWIDTH, "apply_b_dec_to_input": False}
    return SAELens(recipe, replace(start, bias=0.0), architecture="jumprelu", settings=settings, fused=fused)


CASES: tuple[Case, ...] = (
    Case(
        "topk, F 16,384, k 32",
        WIDE,
        {
            **topk_entries(32),
            "sparsify, fused Adam, memory kept": partial(memory_kept, make=partial(Sparsify, fused=True)),
            "SAELens, fused Adam, memory kept": partial(memory_kept, make=saelens("topk", fused=True, k=32)),
            "dictionary_learning, fused Adam, memory kept": partial(
                memory_kept, make=partial(DictionaryLearning, fused=True)
            ),
            **FLOORS,
        },
        (
            Bar("sparsify", "saelab", 3.0, 4.0),
            Bar("sparsify, fused Adam", "saelab", 2.5, 3.3),
            Bar("SAELens", "saelab", 12.0, 16.0),
            Bar("dictionary_learning", "saelab", 11.0, 15.0),
            Bar("sparsify", "saelab, exact", 1.5),
            Bar("saelab", "bf16 GEMM", 2.5, 2.0, at_most=True),
        ),
        seconds=7.0,
    ),
    Case(
        "topk, F 65,536, k 64",
        Recipe(n_latents=65536, k=64),
        {
            "saelab": saelab("topk", k=64),
            "sparsify": Sparsify,
            "SAELens": saelens("topk", k=64),
            "SAELens, sparse, fused Adam": saelens("topk", fused=True, **_sparse(64)),
            **FLOORS,
        },
        (Bar("SAELens", "saelab", 12.0),),
        seconds=20.0,
    ),
    _against("SAELens abstopk", "abstopk", "abs_topk", 10.0),
    _against("SAELens batchtopk", "batchtopk", "batch_topk", 10.0),
    _against("SAELens batchtopk", "batchtopk", "mutual_choice", 10.0),
    _against("SAELens topk", "topk", "gradient_topk", 7.0),
    Case(
        f"jumprelu, F 16,384, L0 about {L0:.0f}, narrow window",
        _THRESHOLDED,
        {
            "saelab": _own_jumprelu,
            "SAELens jumprelu": _lens_jumprelu,
            "SAELens jumprelu, fused Adam": partial(_lens_jumprelu, fused=True),
        },
        (Bar("SAELens jumprelu", "saelab", 5.0),),
        l0=L0,
    ),
    Case(
        f"relu, F 16,384, L0 about {L0:.0f}",
        _THRESHOLDED,
        {
            "saelab": saelab("relu", l1_warmup_frac=0.0),
            "SAELens standard": saelens("standard", l1_coefficient=5.0, apply_b_dec_to_input=False),
            "SAELens standard, fused Adam": saelens(
                "standard", fused=True, l1_coefficient=5.0, apply_b_dec_to_input=False
            ),
        },
        (Bar("SAELens standard", "saelab", 5.0),),
        l0=L0,
    ),
    Case(
        "matching_pursuit, F 4,096, 32 steps",
        Recipe(n_latents=4096, k=32),
        {
            "saelab": saelab("matching_pursuit", k=32),
            "SAELens matching_pursuit": saelens("matching_pursuit", max_iterations=32),
            "SAELens matching_pursuit, no early stop, fused Adam": saelens(
                "matching_pursuit",
                fused=True,
                max_iterations=32,
                residual_threshold=0.0,
                stop_on_duplicate_support=False,
            ),
        },
        (Bar("SAELens matching_pursuit", "saelab", 6.0, 10.0),),
        seconds=5.0,
    ),
    Case(
        "topk, F 2,048, k 32, batch 512",
        SMALL,
        topk_entries(32),
        tuple(
            Bar(name, "saelab", 1.0)
            for name in topk_entries(32)
            if not name.startswith("saelab")  # not slower than any of them, at its best or not
        ),
        seconds=0.4,
    ),
)


def start_of(case: Case, x: Tensor, seed: int = 0) -> Start:
    """A case's first weights; where it has an `l0`, with the bias at which so many latents are active on `x`."""
    start = random_start(case.recipe, seed, norm=case.norm)
    if case.l0 is None:
        return start
    few = x[::4]
    above = (few @ start.rows.T).flatten().topk(round(case.l0 * len(few)), sorted=True).values[-1]
    return replace(start, bias=-above.item())
