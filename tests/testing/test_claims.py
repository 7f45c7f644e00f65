"""What each paper says its variant does, on planted worlds: medians of three seeds, which draw features, weights and
tokens. Steps, batches and rates stand with each claim; where a claim holds only in part, the test says which part.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from saelab.testing import recovery
from saelab.testing.fitting import fit, heldout, measure, measure_codes
from saelab.testing.planted import Hierarchy, Readout, Signed, Superposed, World, stream
from saelab.training import TrainSpec

pytestmark = pytest.mark.slow

SEEDS = range(3)
N_HELDOUT = 8192
TRAIN: dict[str, Any] = {
    **{"batch_tokens": 512, "lr": 1e-2, "warmup_steps": 50, "decay_frac": 0.3},
    **{"dead_after_tokens": 20_000, "centre": False},
}
PAPER_HIERARCHY: dict[str, Any] = {"batch_tokens": 200, "lr": 3e-2, "betas": (0.5, 0.9375)}
"""As in arXiv 2506.03093, which takes 15,000 steps."""

D64 = Superposed()  # d 64, 64 features, three of them active, equally often


def medians(
    world: World, kind: str, settings: Mapping[str, Any], *, steps: int = 800, trained: int | None = None, **train: Any
) -> dict[str, float]:
    """Median over seeds of each metric, in inference form on fresh tokens, after `trained` of the steps (None: all)."""
    rows: list[dict[str, float]] = []
    for seed in SEEDS:
        here, options = replace(world, seed=seed), TRAIN | train
        spec = TrainSpec(tokens=steps * options["batch_tokens"], seed=seed, **options)
        sae = fit(here, kind, settings, spec, steps=trained)
        rows.append(measure(here, sae, heldout(here, N_HELDOUT, seed)))
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def by_pursuit(world: World, *, oracle: bool) -> dict[str, float]:
    """What the true dictionary, or a random one, makes of the first seed's tokens when coded by pursuit."""
    sample = heldout(world, N_HELDOUT, 0)
    guess = recovery.random_dictionary(len(world.features), sample.x.shape[1], stream(0, "random"))
    dictionary = world.features if oracle else guess
    codes = recovery.pursue(sample.x, dictionary, (sample.codes != 0).sum(1), signed=world.signed)
    return measure_codes(world, dictionary, codes, codes @ dictionary, sample)


# -- recovery ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sparsity"),
    [("topk", {"k": 3}), ("batch_topk", {"k": 3}), ("jumprelu", {"target_l0": 3.0, "pre_act": 0.03})],
)
def test_the_planted_features_are_found_at_matched_l0(kind, sparsity):
    """800 steps of 512 tokens. A random dictionary and the untrained SAE stand near 0.27.

    JumpReLU's lift for dead latents is made for far longer runs: with the default weight of 3e-6 a tenth of
    its latents are dead here, and its MCC is 0.90."""
    found = medians(D64, kind, {"n_latents": 64, **sparsity})
    assert found["mcc"] > 0.9
    assert found["l0"] == pytest.approx(3.0, rel=0.1)
    untrained = medians(D64, kind, {"n_latents": 64, **sparsity}, trained=0)
    assert untrained["mcc"] < 0.35
    assert by_pursuit(D64, oracle=False)["mcc"] < 0.35


@pytest.mark.parametrize(
    "harder",
    [{}, {"noise": 0.5}, {"noise": 0.5, "correlation": 0.5}],
    ids=["zipf", "noise", "correlation"],
)
def test_harder_worlds_lie_between_the_oracle_and_the_random_dictionary(harder):
    """256 Zipf features in 64 dimensions; 500 steps of 512 tokens."""
    world = Superposed(n_features=256, zipf=1.0, **harder)
    found = medians(world, "batch_topk", {"n_latents": 256, "k": 3}, steps=500)
    oracle, random = by_pursuit(world, oracle=True), by_pursuit(world, oracle=False)
    assert oracle["support_f1"] > 0.95 > found["support_f1"] > random["support_f1"] + 0.3
    assert oracle["fvu"] < found["fvu"] < random["fvu"] - 0.3
    assert found["mcc"] > random["mcc"] + 0.4


# -- the hierarchy ------------------------------------------------------------------------------------------


def absorption(kind: str, settings: dict[str, Any], **train: Any) -> dict[str, float]:
    return medians(Hierarchy(), kind, {"n_latents": 20, **settings}, steps=1500, **PAPER_HIERARCHY | train)


def test_matching_pursuit_does_not_absorb_parents():
    """1,500 steps of 200 tokens, at a rate of 0.3 that falls over the second half.

    A latent that mixes parent and child is a local minimum of pursuit. At the paper's rate of 0.03 one to
    three of nine children stay in it in most seeds; a rate this hot shakes them out (8 of 8 seeds)."""
    found = absorption("matching_pursuit", {"k": 3, "residual_threshold": 0.1}, lr=0.3, decay_frac=0.5)
    assert found["absorption"] < 0.05
    assert found["mcc"] > 0.99
    assert found["fvu"] < 1e-3
    assert found["l0"] == pytest.approx(1.36, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "sparsity", "least"), [("relu", {"target_l0": 1.36}, 0.5), ("batch_topk", {"k": 1.36}, 0.15)]
)
def test_one_step_encoders_absorb_parents(kind, sparsity, least):
    """1,500 steps of 200 tokens. ReLU 0.66; BatchTopK 0.33 (over eight seeds 0.16 to 0.45, with a median of 0.31)."""
    found = absorption(kind, sparsity)
    assert found["absorption"] > least
    assert found["l0"] == pytest.approx(1.36, rel=0.1)


# -- variants ------------------------------------------------------------------------------------------------


def test_a_signed_latent_does_the_work_of_two():
    """Signed features; 500 steps of 512 tokens. AbsTopK with a latent a feature has less error than TopK with as
    many latents, at the same k and at twice that. TopK with two latents a feature, a dictionary twice
    as large, comes level: both can then write every token with one latent a feature."""
    world = Signed()
    signed = medians(world, "abs_topk", {"n_latents": 64, "k": 3}, steps=500)
    same = medians(world, "topk", {"n_latents": 64, "k": 3}, steps=500)
    twice_active = medians(world, "topk", {"n_latents": 64, "k": 6}, steps=500)
    twice_wide = medians(world, "topk", {"n_latents": 128, "k": 3}, steps=500)
    assert signed["fvu"] < 0.6 * same["fvu"]
    assert signed["fvu"] < 0.8 * twice_active["fvu"]
    assert signed["fvu"] == pytest.approx(twice_wide["fvu"], abs=0.03)
    assert signed["mcc"] > same["mcc"] + 0.1


def test_gradients_in_training_help_a_readout_where_latents_are_scarce():
    """64 latents for 128 features, 8 of which are read; 800 steps of 512 tokens. Deployed without gradients.

    Where there is a latent for every feature it does not hold: nothing has to be given up for what is read,
    and latents that were chosen by gradients rank differently without them. With 64 features TopK's error is
    0.08 nats and this variant's 0.16, for each of eight seeds; with gradients at hand it is 0.006."""
    world = Readout()
    plain = medians(world, "topk", {"n_latents": 64, "k": 3})
    informed = medians(world, "gradient_topk", {"n_latents": 64, "k": 3})
    assert informed["l0"] == pytest.approx(plain["l0"], rel=0.05)
    assert informed["downstream_nats"] < 0.6 * plain["downstream_nats"]
    assert plain["fvu"] < informed["fvu"] < plain["fvu"] + 0.1


def test_feature_choice_leaves_fewer_latents_dead_than_topk():
    """256 Zipf features, 256 latents; 500 steps of 512 tokens."""
    world = Superposed(n_features=256, zipf=1.0)
    plain = medians(world, "topk", {"n_latents": 256, "k": 3}, steps=500)
    fair = medians(world, "feature_choice", {"n_latents": 256, "k": 3}, steps=500)
    assert plain["dead"] > 0.01
    assert fair["dead"] < 0.5 * plain["dead"]


def test_group_bias_recovers_as_topk_does_if_its_frequencies_are_right():
    """600 steps of 512 tokens; all features are active with probability 3 / 64. Ten times that is wrong."""

    def at(frequency: float) -> float:
        targets = {"groups": 1, "highest": frequency, "lowest": frequency, "l0": None}
        return medians(D64, "group_bias", {"n_latents": 64, "rate": 0.05, **targets}, steps=600)["mcc"]

    right = at(3 / 64)
    assert right > medians(D64, "topk", {"n_latents": 64, "k": 3}, steps=600)["mcc"] - 0.03
    assert at(30 / 64) < right - 0.2


def test_a_heavier_kl_kills_latents():
    """600 steps of 512 tokens. It holds up to a weight of about 0.4; at 1 every mean has collapsed to 0 (MCC is that
    of a random dictionary), TopK keeps whatever is left of them, and nothing counts as dead any more."""
    weights = (0.0, 0.2, 0.4)
    dead = [medians(D64, "variational", {"n_latents": 64, "k": 3, "kl": kl}, steps=600)["dead"] for kl in weights]
    assert dead[0] < dead[1] < dead[2]
    assert dead[2] > dead[0] + 0.05
