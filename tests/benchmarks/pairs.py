"""Which variants are trained beside a peer's own implementation, with what in common, and what differs by formula.

What all share: batches, initial rows, steps, Adam and its learning rates, coefficients, thresholds and windows, in
one unit. The peers' squared errors are summed over d and averaged over tokens; saelab divides some of its own by the
batch's variance. Adam does not see such a factor, but clipping at a gradient norm of 1 does (where the error is a sum
it acts at every step), so saelab clips at 1 over that factor. Auxiliary losses for dead latents are off on all sides:
their definitions differ, and these runs are too short for latents to die.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .contest import Contestant, Recipe, Start
from .own import Saelab
from .peer_dictionary_learning import DictionaryLearning
from .peer_saelens import SAELens
from .peer_sparsify import Sparsify

MakeContestant = Callable[[Recipe, Start], Contestant]

VARIANCE = 600.0
"""`mean ||x - mean(x)||^2` of the demo's activations in training units, to two digits: what a normalised error is
divided by."""
SUMMED = Recipe(n_latents=2048, k=32, batch_tokens=1024, steps=300, warmup_steps=30, decay_frac=0.3)
NORMALISED = replace(SUMMED, clip=1 / VARIANCE)
PENALISED = replace(SUMMED, lr=3e-3)
"""An L1 penalty has to bring L0 down from half of all latents: at the other rate that takes thousands of steps."""
PURSUIT = replace(SUMMED, n_latents=1024, k=16, steps=200)


@dataclass(frozen=True)
class Pair:
    """A variant, saelab's and the peers' own.

    Attributes:
        name: as shown; kind: saelab's name; recipe: what all share.
        settings: of saelab's variant.
        peers: by name.
        norm: of the rows at the start.
        free_rows: saelab's decoder rows are not held at norm 1, to tell what that costs.
        differs: what is not the same by formula, in a sentence; empty where nothing is known to differ.
        seconds: expected for one seed of everyone.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    peers: Mapping[str, MakeContestant]
    recipe: Recipe = NORMALISED
    norm: float = 1.0
    free_rows: bool = False
    differs: str = ""
    seconds: float = 40.0

    def contestants(self) -> dict[str, MakeContestant]:
        mine = partial(Saelab, kind=self.kind, settings=self.settings, free_rows=self.free_rows)
        return {"saelab": mine, **self.peers}


def _saelens(architecture: str, **settings: Any) -> dict[str, MakeContestant]:
    return {"SAELens": partial(SAELens, architecture=architecture, settings=settings)}


_NO_AUX = {"aux_coefficient": 0.0}
_FREE = "SAELens leaves decoder rows free and ranks by pre-activation times norm; saelab holds them at norm 1"
_QUICK_THRESHOLD = {"topk_threshold_lr": 0.05}
"""SAELens' running threshold starts at 0; at its default rate, 0.01, a run of 300 steps ends before it arrives."""
_WIDTHS = (128, 256, 512, 1024, 2048)
_L1 = 5.0

_JUMPRELU = {
    "l0_coefficient": 1.0,
    "l0_warm_up_steps": 30,
    "jumprelu_init_threshold": 2.0,
    "jumprelu_bandwidth": 0.5,
    "apply_b_dec_to_input": False,
}

_PURSUIT = _saelens("matching_pursuit", max_iterations=PURSUIT.k)

PAIRS: tuple[Pair, ...] = (
    Pair(
        "topk",
        "topk",
        {"k": 32, **_NO_AUX},
        {
            **_saelens("topk", k=32, aux_loss_coefficient=0.0),
            "dictionary_learning": partial(DictionaryLearning, auxk=0.0),
        },
        differs=_FREE,
        seconds=60.0,
    ),
    Pair(
        "topk, nothing clipped",
        "topk",
        {"k": 32, **_NO_AUX},
        {"sparsify": Sparsify},
        recipe=replace(NORMALISED, clip=None),
        seconds=25.0,
    ),
    Pair(
        "abs_topk",
        "abs_topk",
        {"k": 32, **_NO_AUX},
        _saelens("abstopk", k=32, aux_loss_coefficient=0.0),
        differs=_FREE,
    ),
    Pair(
        "batch_topk",
        "batch_topk",
        {"k": 32, **_NO_AUX},
        _saelens("batchtopk", k=32, aux_loss_coefficient=0.0, **_QUICK_THRESHOLD),
        differs=f"{_FREE}; SAELens deploys a running mean of batch minima, saelab a quantile",
    ),
    Pair(
        "matryoshka",
        "matryoshka",
        {"k": 32, "prefixes": _WIDTHS, **_NO_AUX},
        _saelens(
            "matryoshka_batchtopk", k=32, matryoshka_widths=list(_WIDTHS), aux_loss_coefficient=0.0, **_QUICK_THRESHOLD
        ),
        recipe=replace(NORMALISED, clip=1 / (VARIANCE * len(_WIDTHS))),
        differs=f"{_FREE}; thresholds as for batch_topk; SAELens adds the prefixes' errors up, saelab averages them",
    ),
    Pair(
        "jumprelu",
        "jumprelu",
        {"penalty": "l0", "coefficient": 1.0, "target_l0": None, "warmup_frac": 0.1, "pre_act": 0.0}
        | {"threshold": 2.0, "bandwidth": 0.5},
        {
            **_saelens("jumprelu", **_JUMPRELU),
            "SAELens, thresholds at saelab's rate": partial(
                SAELens, architecture="jumprelu", settings=_JUMPRELU, threshold_rate=SUMMED.d_model**0.5
            ),
        },
        recipe=SUMMED,
        differs="saelab learns thresholds in units of an input's norm, so that Adam moves them 24 times as far",
    ),
    Pair(
        "relu",
        "relu",
        {"l1": _L1, "l1_warmup_frac": 0.1},
        _saelens("standard", l1_coefficient=_L1, l1_warm_up_steps=40, apply_b_dec_to_input=False),
        recipe=replace(PENALISED, steps=400),
        norm=0.1,
    ),
    Pair(
        "gated",
        "gated",
        {"l1": _L1, "l1_warmup_frac": 0.1},
        _saelens("gated", l1_coefficient=_L1, l1_warm_up_steps=30),
        recipe=PENALISED,
        differs="SAELens leaves decoder rows free, weighs the L1 by their norms, and lets the gate's "
        "reconstruction move the decoder; saelab holds rows at norm 1 and the decoder fixed there",
    ),
    Pair(
        "matching_pursuit",
        "matching_pursuit",
        {"k": PURSUIT.k, "revive": 0.0},
        _PURSUIT,
        recipe=PURSUIT,
        differs="SAELens holds rows at norm 1 at the start alone (they shrink, which damps the pursuit's steps) and "
        "ends a pursuit at a latent picked twice; saelab holds rows at norm 1 and goes on",
    ),
    Pair(
        "matching_pursuit, rows free",
        "matching_pursuit",
        {"k": PURSUIT.k, "revive": 0.0},
        _PURSUIT,
        recipe=PURSUIT,
        free_rows=True,
        differs="as above, but for the norms: shows that they make the difference",
        seconds=15.0,
    ),
)
