"""Planted worlds have the statistics they claim; what is measured on them is right where the answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from saelab.errors import SaelabError
from saelab.sae import SAE
from saelab.testing import recovery
from saelab.testing.fitting import fit, heldout, measure, measure_codes
from saelab.testing.planted import Hierarchy, Readout, Signed, Superposed, stream
from saelab.training import TrainSpec

N = 40_000
WORLDS = [
    Superposed(),
    Superposed(n_features=100, zipf=1.0, correlation=0.5, noise=0.3),
    Signed(zipf=0.5),
    Hierarchy(),
    Hierarchy(child_magnitude=0.5),
    Readout(),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def phi(active: torch.Tensor) -> torch.Tensor:
    """Correlations of the columns of a 0/1 matrix."""
    return torch.corrcoef(active.double().T)


# -- worlds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS, ids=repr)
def test_features_are_unit_and_active_as_often_as_claimed(world):
    sample = world.sample(N, generator())
    torch.testing.assert_close(world.features.norm(dim=1), torch.ones(len(world.features)))
    p = world.frequencies
    assert p.sum() == pytest.approx(world.l0)
    deviation = ((sample.codes != 0).double().mean(0) - p).abs()
    assert (deviation < 5 * (p * (1 - p) / N).sqrt()).all()
    assert sample.x.dtype == torch.float32
    assert (sample.codes < 0).any() == world.signed


@pytest.mark.parametrize("world", WORLDS, ids=repr)
def test_a_world_is_a_pure_function_of_its_seeds(world):
    torch.testing.assert_close(world.features, replace(world).features, rtol=0, atol=0)
    assert not torch.allclose(world.features, replace(world, seed=1).features)
    one, two = world.sample(50, generator()), world.sample(50, generator())
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, world.sample(50, generator(1)).x)


def test_activations_are_the_features_weighted_by_the_codes():
    world = Superposed(n_features=80)
    sample = world.sample(100, generator())
    torch.testing.assert_close(sample.x, sample.codes @ world.features)
    active = world.sample(N, generator()).codes
    active = active[active != 0]
    assert active.mean() == pytest.approx(1.5, abs=0.01)
    assert active.std() == pytest.approx(0.25, abs=0.01)


def test_zipf_frequencies_fall_as_a_power_of_the_rank():
    p = Superposed(n_features=100, n_active=2.0, zipf=1.5).frequencies
    assert (p[0] / p[3]).item() == pytest.approx(4**1.5)
    assert p.sum() == pytest.approx(2.0)


def test_noise_has_the_norm_asked_for():
    world = Superposed(noise=0.4)
    sample = world.sample(N, generator())
    noise = sample.x - sample.codes @ world.features
    assert noise.square().sum(1).mean().sqrt() == pytest.approx(0.4 * 1.5, rel=0.01)
    assert noise.mean(0).abs().max() < 0.01


def test_correlation_is_within_groups_alone():
    world = Superposed(n_features=32, n_active=6.0, correlation=0.6)  # four groups: 0, 4, 8, ... is the first
    found = phi(world.sample(N, generator()).codes != 0)
    group = torch.arange(32) % 4
    same = (group[:, None] == group) & ~torch.eye(32, dtype=torch.bool)
    assert found[same].min() > 0.2
    assert found[group[:, None] != group].abs().max() < 0.03


def test_signs_are_fair_and_independent_of_magnitude():
    codes = Signed().sample(N, generator()).codes
    positive = (codes > 0).double().sum(0) / (codes != 0).double().sum(0)
    assert (positive - 0.5).abs().max() < 0.06
    assert codes[codes < 0].abs().mean() == pytest.approx(1.5, abs=0.01)


def test_the_hierarchy_is_the_papers():
    world = Hierarchy(child_magnitude=1.0)
    assert world.l0 == pytest.approx(1.36)
    assert world.features.shape == (20, 20)
    torch.testing.assert_close(world.features @ world.features.T, torch.eye(20), atol=1e-5, rtol=0)
    codes = world.sample(N, generator()).codes
    parents, children = codes[:, :11], codes[:, 11:]
    assert ((parents != 0).sum(1) == 1).all()
    assert (children != 0).sum(1).max() == 1
    family = world.parents[11:]
    assert family.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for child in range(9):
        born = children[:, child] != 0
        assert (parents[born, family[child]] != 0).all()
        of_parent = born.sum() / (parents[:, family[child]] != 0).sum()
        assert of_parent == pytest.approx(0.2, abs=0.02)
    assert parents[parents != 0].mean() == pytest.approx(1.5, abs=0.01)
    assert children[children != 0].mean() == pytest.approx(1.0, abs=0.01)


def test_the_readouts_gradient_is_that_of_the_summed_loss():
    world = Readout()
    sample = world.sample(500, generator())
    assert sample.loss_grad is not None
    x = sample.x.double().requires_grad_()
    p = torch.sigmoid(world.logits(x))
    # The coin that was thrown shows in the gradient's sign: heads pull the logit up, so the loss falls along v.
    heads = sample.loss_grad.double() @ world.direction.double() < 0
    loss = torch.where(heads, -p.log(), -(1 - p).log()).sum()
    (expected,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(sample.loss_grad.double(), expected, rtol=1e-3, atol=1e-5)


def test_the_readout_is_blind_to_all_but_its_own_features():
    world = Readout()
    seen = world.features @ world.direction
    torch.testing.assert_close(seen[:-8], torch.zeros(120), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[-8:], torch.full((8,), 0.7), atol=1e-5, rtol=0)
    sample = world.sample(N, generator())
    assert sample.loss_grad is not None
    read = (sample.codes[:, -8:] != 0).any(1)
    slope = sample.loss_grad.norm(dim=1)
    assert slope[read].mean() > 5 * slope[~read].mean()


def test_downstream_error_is_a_divergence():
    world = Readout()
    x = world.sample(2000, generator()).x
    assert world.downstream_error(x, x) == 0
    across = x + 5 * torch.linalg.svd(world.direction[None]).Vh[1]  # orthogonal to the readout
    assert world.downstream_error(x, across) == pytest.approx(0, abs=1e-6)
    p, q = (torch.sigmoid(world.logits(y.double())) for y in (x, 0.5 * x))
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert world.downstream_error(x, 0.5 * x) == pytest.approx(kl.item(), rel=1e-6)


def test_impossible_worlds_are_refused():
    with pytest.raises(
        SaelabError, match=r"n_active: the most frequent feature would be active with probability 1\.\d\d"
    ):
        Superposed(n_active=8.0, zipf=1.0)
    with pytest.raises(SaelabError, match="correlation: must be at least 0 and below 1, found 1"):
        Superposed(correlation=1.0)


def test_streams_of_one_seed_share_no_numbers():
    """An SAE initialised from the numbers that made the features would know them untrained; torch takes 32
    bits of a seed, so that adding 2^40 changes nothing."""
    drawn = [torch.randn(4, generator=stream(seed, purpose)) for seed in (0, 1, 2**32) for purpose in ("a", "b")]
    assert all(not torch.equal(drawn[i], drawn[j]) for i in range(6) for j in range(i))
    assert torch.equal(drawn[0], torch.randn(4, generator=stream(0, "a")))


# -- metrics --------------------------------------------------------------------------------------------


def test_a_perfect_dictionary_scores_one_however_it_is_ordered_and_scaled():
    truth = Superposed(n_features=80).features
    order = torch.randperm(80, generator=generator())
    for learned in (truth, truth[order], 3 * truth[order]):
        assert recovery.mcc(learned, truth) == pytest.approx(1)
        assert recovery.recovery_rate(learned, truth, tau=0.999) == 1


def test_signs_matter_unless_told_otherwise():
    truth = torch.eye(8)
    learned = truth.clone()
    learned[:4] *= -1
    assert recovery.mcc(learned, truth, signed=True) == pytest.approx(1)
    assert recovery.mcc(learned, truth) == pytest.approx(0.5)  # four match 1, the flipped ones at best 0
    assert recovery.recovery_rate(learned, truth) == 0.5


def test_the_matching_is_the_best_one_to_one_not_the_greedy_one():
    similarity = torch.tensor([[0.9, 0.8], [0.8, 0.1]])
    pairs = recovery.match(similarity)
    assert pairs.features.tolist() == [1, 0]
    assert pairs.similarity.tolist() == pytest.approx([0.8, 0.8])
    wide = recovery.match(torch.tensor([[0.0, 1.0, 0.0]]))
    assert (wide.latents.tolist(), wide.features.tolist()) == ([0], [1])


def test_duplicates_do_not_count_twice():
    truth = torch.eye(4)
    learned = truth[[0, 0, 0, 0]]
    assert recovery.mcc(learned, truth) == pytest.approx(0.25)
    assert recovery.recovery_rate(learned, truth) == 0.25


def test_a_random_dictionary_is_at_its_known_level():
    """64 x 64 in 64 dimensions: cosines are N(0, 1/64), and the best assignment takes about two standard
    deviations of each."""
    found = [
        recovery.mcc(recovery.random_dictionary(64, 64, generator(s)), Superposed(seed=s).features) for s in range(5)
    ]
    assert all(0.22 < value < 0.32 for value in found)


def test_rows_of_zeros_match_nothing():
    assert recovery.mcc(torch.zeros(3, 5), torch.eye(5)[:3]) == 0


def test_support_f1_by_hand():
    true = torch.tensor([[1.0, 0, 0], [2, 3, 0], [0, 1, 0], [0, 0, 0]])  # the third feature never occurs
    codes = torch.tensor([[0.5, 0, 0], [0, -2, 0], [0, 1, 1], [0, 1, 1]])
    pairs = recovery.match(torch.eye(3))
    first = 2 * 1 / (1 + 2)
    second = 2 * 2 / (3 + 2)
    assert recovery.support_f1(codes, true, pairs) == pytest.approx((first + second) / 2)


def test_absorption_by_construction():
    world = Hierarchy()
    sample = world.sample(4000, generator())
    angle = 0.3
    learned = world.features.clone()
    children = world.parents >= 0
    learned[children] = math.cos(angle) * learned[children] + math.sin(angle) * learned[world.parents[children]]
    shuffled = torch.randperm(20, generator=generator())

    def found(dictionary, codes):
        return recovery.absorption(dictionary, codes, world.features, sample.codes, world.parents)

    assert found(world.features, sample.codes) == pytest.approx(0, abs=1e-6)
    assert found(learned[shuffled], sample.codes[:, shuffled]) == pytest.approx(math.sin(angle), abs=1e-5)
    assert found(-learned, -sample.codes) == pytest.approx(math.sin(angle), abs=1e-5)


def test_dead_latents_are_those_never_active():
    assert recovery.dead_frac(torch.tensor([[0.0, 1, 0, 0], [0, 0, -1, 0]])) == 0.5


def test_pursuit_with_the_true_dictionary_finds_the_support_and_with_a_random_one_does_not():
    for world in (Superposed(n_features=96), Signed(n_features=96)):
        sample = world.sample(1000, generator())
        n_active = (sample.codes != 0).sum(1)
        codes = recovery.pursue(sample.x, world.features, n_active, signed=world.signed)
        assert torch.equal((codes != 0).sum(1), n_active)
        oracle = measure_codes(world, world.features, codes, codes @ world.features, sample)
        assert oracle["support_f1"] > 0.98
        assert oracle["fvu"] < 0.01
        guess = recovery.random_dictionary(96, 64, generator(7))
        codes = recovery.pursue(sample.x, guess, n_active, signed=world.signed)
        null = measure_codes(world, guess, codes, codes @ guess, sample)
        assert null["mcc"] < 0.35
        assert null["fvu"] > 0.5


# -- fitting --------------------------------------------------------------------------------------------

SMALL = Superposed(d_model=12, n_features=12, n_active=1.0)
SPEC = TrainSpec(tokens=128 * 200, batch_tokens=128, lr=1e-2, warmup_steps=10, dead_after_tokens=4000)
TOPK = {"n_latents": 12, "k": 1}


def fitted(**settings) -> SAE:
    return fit(SMALL, "topk", TOPK, SPEC, **settings)


def test_fitting_gives_a_better_sae_than_none_in_the_worlds_own_units():
    sample = heldout(SMALL, 2000, 0)
    trained, untrained = (measure(SMALL, fitted(steps=steps), sample) for steps in (None, 0))
    assert trained["fvu"] < 0.5 < untrained["fvu"]
    assert trained["mcc"] > untrained["mcc"] + 0.2
    assert untrained["mcc"] < 0.75
    assert trained["l0"] <= 1
    assert fitted(steps=0).identity.form == "inference"


def test_fitting_is_reproducible_and_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = fitted(steps=20), fitted(steps=20)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.sha256() == two.sha256()
    other = fit(SMALL, "topk", TOPK, replace(SPEC, seed=1), steps=20)
    assert other.sha256() != one.sha256()


def test_heldout_tokens_are_not_those_trained_on():
    trained_on = SMALL.sample(100, stream(0, "tokens")).x
    assert not torch.equal(trained_on, heldout(SMALL, 100, 0).x)


def test_a_dictionary_with_signed_codes_is_matched_up_to_sign():
    world = Superposed()
    sample = world.sample(500, generator())
    codes = -sample.codes
    assert measure_codes(world, -world.features, codes, sample.x, sample)["mcc"] == pytest.approx(1)
    assert measure_codes(world, -world.features, sample.codes, sample.x, sample)["mcc"] < 0.5
