"""Selection rules and coders one by one: what each paper says must hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saelab.errors import SaelabError
from saelab.sae import SAE, Scaling, SparseCode, build
from saelab.sae.affine import PreActivations
from saelab.sae.code import Seen
from saelab.sae.coders.group_bias import GroupBias, group_targets
from saelab.sae.rules import (
    BatchTopK,
    FeatureActivation,
    FeatureChoice,
    GradientTopK,
    JumpReLU,
    SelectionRule,
    Step,
    TopK,
)
from saelab.sae.rules.quotas import Zipf, capped, fit_zipf, whole_quotas

DOUBLE = torch.float64


def code_of(rule: SelectionRule, pre: Tensor, seen: Seen | None = None) -> Tensor:
    """What a rule makes of `[tok, lat]` pre-activations, dense."""
    support = rule.candidates(pre, seen or Seen(pre, torch.eye(pre.shape[1], dtype=pre.dtype)))
    values = pre[support.rows, support.latents[: support.nnz].long()]
    return SparseCode(rule.activate(values, support), support).to_dense()


def as_pre(u: Tensor) -> PreActivations:
    """Pre-activations that are `u` `[tok, lat]` itself."""
    return PreActivations(u, torch.eye(u.shape[1], dtype=u.dtype), torch.zeros(u.shape[1], dtype=u.dtype))


def batch_step(code: Tensor, progress: float) -> Step:
    return Step(progress, SparseCode.from_dense(code))


# -- budgets over a batch ---------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 30), st.floats(-2, 1), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_batch_topk_keeps_the_budget_or_all_positives(n_tokens, k, shift, seed):
    u = torch.randn(n_tokens, 30, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) + shift
    code = code_of(BatchTopK(k), u)
    assert int((code != 0).sum()) == min(k * n_tokens, int((u > 0).sum()))
    dropped = u[(code == 0) & (u > 0)]
    assert dropped.numel() == 0 or bool(dropped.max() <= code[code != 0].min())


@pytest.mark.parametrize("rule", [BatchTopK(3), "feature choice"])
def test_rules_over_a_batch_do_not_mind_the_order_of_tokens(rule):
    if rule == "feature choice":
        rule = feature_choice(3, torch.linspace(0.01, 0.14, 40))
    u = torch.randn(64, 40, dtype=DOUBLE)
    order = torch.randperm(64)
    assert torch.equal(code_of(rule, u[order]), code_of(rule, u)[order])


def test_the_threshold_of_batch_topk_lets_k_latents_be_active_per_token():
    rule = BatchTopK(5)
    u = torch.randn(5000, 40)  # more than one block of tokens
    rule.calibrate(as_pre(u))
    assert int((code_of(rule.inference(), u) != 0).sum()) == 5 * 5000
    few = (torch.rand(300, 40) < 0.05) * torch.rand(300, 40)
    rule.calibrate(as_pre(few))
    assert float(rule.inference().threshold) == 0.0


def test_no_thresholds_no_inference_form():
    with pytest.raises(SaelabError, match=r"no thresholds yet(.|\n)*call sae.calibrate"):
        build("batch_topk", 8, {"n_latents": 16, "k": 2}).sae.inference()


def feature_choice(k: int, density: Tensor) -> FeatureChoice:
    rule = FeatureChoice(k, zipf=False, mutual_frac=0.0)
    rule.prepare(len(density))
    rule.density.copy_(density)
    return rule


@given(st.integers(0, 1000), st.floats(-1.5, 1.0))
@settings(max_examples=30, deadline=None)
def test_feature_choice_fills_quotas_as_far_as_positives_reach(seed, shift):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(50, 20, dtype=DOUBLE, generator=generator) + shift
    density = torch.rand(20, generator=generator)
    rule = feature_choice(5, density)
    quotas = whole_quotas(rule.density, 50)
    counts = (code_of(rule, u) != 0).sum(0)
    assert torch.equal(counts, torch.minimum(quotas, (u > 0).sum(0)))
    assert bool((quotas >= 1).all())  # so that no latent with a positive token is dead


def test_the_thresholds_of_feature_choice_fire_each_latent_as_often_as_its_quota():
    u = torch.randn(2000, 60, generator=torch.Generator().manual_seed(0))
    density = torch.logspace(-3, -0.4, 60)
    rule = feature_choice(5, density)
    rule.calibrate(as_pre(u))
    found = (code_of(rule.inference(), u) != 0).sum(0)
    assert (found - density * 2000).abs().max() <= 1


def test_feature_choice_measures_then_chooses():
    rule = FeatureChoice(4, zipf=True, mutual_frac=0.5)
    rule.prepare(16)
    u = torch.randn(64, 16) + torch.linspace(1, -1, 16)
    assert torch.equal(code_of(rule, u), code_of(BatchTopK(4), u))
    for progress in (0.1, 0.3, 0.49):
        rule.adapt(batch_step(code_of(rule, u), progress))
        assert not rule.chosen
    rule.adapt(batch_step(code_of(rule, u), 0.5))
    assert rule.chosen
    assert float(rule.density.sum()) == pytest.approx(4, rel=1e-5)
    assert torch.equal(rule.density.argsort(descending=True), rule.measured.argsort(descending=True))
    chosen = rule.density.clone()
    rule.adapt(batch_step(code_of(rule, u), 0.9))
    assert torch.equal(rule.density, chosen)


# -- quotas -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=40).filter(lambda shares: sum(shares) > 0),
    st.integers(0, 3000),
)
@settings(max_examples=200, deadline=None)
def test_whole_quotas_add_up_and_stay_near_their_shares(shares, n_tokens):
    density = torch.tensor(shares, dtype=DOUBLE)
    quotas = whole_quotas(density, n_tokens)
    exact = density * n_tokens
    total = round(float(exact.sum()))
    assert int(quotas.sum()) == total
    assert bool((quotas >= 0).all())
    assert bool((quotas <= n_tokens).all())
    if total >= len(density):
        assert bool((quotas >= min(1, n_tokens)).all())
    if bool((exact >= 1).all()):
        assert bool(((quotas - exact).abs() < 1).all())


@pytest.mark.parametrize(("exponent", "shift"), [(0.5, 1.0), (1.0, 4.0), (1.3, 32.0), (2.0, 128.0)])
def test_fit_zipf_recovers_a_curve_in_any_order(exponent, shift):
    density = Zipf(exponent, shift).densities(3000, 6.0)
    found = fit_zipf(density[torch.randperm(3000)])
    assert found.shift == shift
    assert found.exponent == pytest.approx(exponent, rel=1e-6)


@given(
    st.lists(st.integers(0, 2000), min_size=3, max_size=300),
    st.integers(1, 3),
    st.integers(0, 4),
)
@settings(max_examples=100, deadline=None)
def test_any_measured_densities_give_quotas_that_add_up(counts, k, extra):
    density = torch.tensor(counts, dtype=torch.float32) / 2000
    shares = fit_zipf(density).densities(len(density) * 10**extra, float(k))
    assert float(shares.sum()) == pytest.approx(k, rel=1e-9)
    assert bool((shares >= 0).all())
    assert bool((shares <= 1).all())
    assert bool((shares.diff() <= 1e-12).all())


def test_densities_that_fall_like_an_exponential_give_quotas():
    density = torch.exp(-torch.arange(64) / 16.0) / 50
    curve = fit_zipf(density)
    assert curve.exponent > 300  # (rank + shift) ** -exponent is 0 in any floating point format
    assert float(curve.densities(64, 4.0).sum()) == pytest.approx(4)


def test_a_share_above_1_goes_to_the_others_in_proportion():
    shares = capped(torch.tensor([100.0, 2.0, 1.0, 1.0], dtype=DOUBLE), 2.0)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.5, 0.25, 0.25], dtype=DOUBLE))


# -- top-AFA ----------------------------------------------------------------------------------------------------


def test_feature_activation_finds_the_support_of_an_exact_code_on_an_orthonormal_dictionary():
    basis = torch.linalg.qr(torch.randn(16, 16, dtype=DOUBLE))[0]
    truth = (torch.rand(200, 16, dtype=DOUBLE) < 0.3) * (0.5 + torch.rand(200, 16, dtype=DOUBLE))
    x = truth @ basis
    code = code_of(FeatureActivation(), x @ basis.T, Seen(x, basis))
    torch.testing.assert_close(code, truth)


@pytest.mark.parametrize("scale", [0.05, 1.0, 50.0])
def test_feature_activation_comes_nearest_to_the_inputs_norm(scale):
    rows = torch.randn(600, 16, dtype=DOUBLE)  # wider than the first sort
    x = scale * torch.randn(50, 16, dtype=DOUBLE)
    u = torch.randn(50, 600, dtype=DOUBLE)
    strength = u.relu() * rows.norm(dim=1)
    ordered = strength.sort(dim=1, descending=True).values
    reached = ordered.square().cumsum(1).sqrt()
    wanted = (reached - x.norm(dim=1)[:, None]).abs().argmin(1) + 1
    code = code_of(FeatureActivation(), u, Seen(x, rows))
    assert torch.equal((code != 0).sum(1), torch.minimum(wanted, (u > 0).sum(1)))
    kept, dropped = torch.where(code != 0, strength, torch.inf), torch.where(code == 0, strength, 0.0)
    assert bool((kept.amin(1) >= dropped.amax(1)).all())


def test_feature_activation_does_not_see_a_rescaling_of_latents():
    x, W_enc, W_dec = (torch.randn(n, 16, dtype=DOUBLE) for n in (50, 80, 80))
    factor = torch.logspace(-2, 2, 80, dtype=DOUBLE)[torch.randperm(80), None]
    plain = code_of(FeatureActivation(), x @ W_enc.T, Seen(x, W_dec))
    rescaled = code_of(FeatureActivation(), x @ (W_enc / factor).T, Seen(x, W_dec * factor))
    assert torch.equal(plain != 0, rescaled != 0)


# -- gradient-TopK ----------------------------------------------------------------------------------------------


def test_gradient_topk_keeps_the_largest_scores_and_raw_values():
    u, rows, grad = (torch.randn(*shape, dtype=DOUBLE) for shape in ((40, 60), (60, 16), (40, 16)))
    rule = GradientTopK(5, 0.7, normalise=False)
    code = code_of(rule, u, Seen(grad, rows, {"loss_grad": grad}))
    score = u * (1 + 0.7 * (grad @ rows.T).abs())
    best = score.topk(5, dim=1).indices
    assert torch.equal(code, torch.zeros_like(u).scatter(1, best, u.gather(1, best).relu()))


def test_gradient_topk_measures_effects_in_units_of_their_running_mean():
    u, rows, grad = (torch.randn(*shape, dtype=DOUBLE) for shape in ((40, 60), (60, 16), (40, 16)))
    codes = []
    for scale in (1.0, 1e-4):
        rule = GradientTopK(5, 0.7, normalise=True).double()
        codes.append(code_of(rule, u, Seen(grad, rows, {"loss_grad": grad * scale})))
        assert float(rule.mean_attribution) == pytest.approx(scale * float((grad @ rows.T).abs().mean()))
        rule.eval()
        code_of(rule, u, Seen(grad, rows, {"loss_grad": 9 * grad * scale}))
        assert float(rule.mean_attribution) == pytest.approx(scale * float((grad @ rows.T).abs().mean()))
    assert torch.equal(*codes)


def test_a_batch_of_no_token_leaves_the_running_mean_alone():
    sae = build("gradient_topk", 16, {"n_latents": 60, "k": 5}).sae
    assert sae.encode(torch.zeros(0, 16), {"loss_grad": torch.zeros(0, 16)}).n_tokens == 0
    sae.encode(torch.randn(2, 3, 16), {"loss_grad": torch.randn(2, 3, 16)})
    rule = sae.coder.rule
    assert isinstance(rule, GradientTopK)
    assert float(rule.mean_attribution) > 0


def test_gradient_topk_prefers_latents_along_what_the_loss_reads():
    torch.manual_seed(0)
    readout = torch.nn.functional.normalize(torch.randn(16, dtype=DOUBLE), dim=0)
    rows = torch.nn.functional.normalize(torch.randn(200, 16, dtype=DOUBLE), dim=1)
    x = torch.randn(100, 16, dtype=DOUBLE)
    u, grad = x @ rows.T, torch.randn(100, 1, dtype=DOUBLE) * readout
    along = (rows @ readout).abs()

    def alignment(rule: SelectionRule) -> float:
        code = code_of(rule, u, Seen(x, rows, {"loss_grad": grad}))
        return float(((code != 0) * along).sum() / (code != 0).sum())

    assert alignment(GradientTopK(10, 3.0, normalise=True)) > 1.5 * alignment(TopK(10))


# -- JumpReLU ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", ["threshold", "all"])
def test_jumprelu_pseudo_gradients_are_the_papers(reach):
    rule, unit = JumpReLU(0.6, bandwidth=0.4, reach=reach, unit=4.0), 4.0
    rule.prepare(7)
    torch.testing.assert_close(rule.double().threshold, torch.full((7,), 0.6, dtype=DOUBLE))
    theta = torch.linspace(0.2, 1.4, 7, dtype=DOUBLE)
    rule.relative = torch.nn.Parameter(theta / unit)
    u = (torch.arange(41, dtype=DOUBLE)[:, None] / 20 + 0.013).expand(-1, 7).clone()
    support = rule.candidates(u, Seen(u, u))
    leaf = u[support.rows, support.latents.long()].requires_grad_()
    window = ((u - theta).abs() < 0.2).to(DOUBLE) / 0.4
    upstream = torch.randn_like(u)

    dense = SparseCode(rule.activate(leaf, support), support).to_dense()
    assert torch.equal(dense, u * (u > theta))
    value_grad, theta_grad = torch.autograd.grad((dense * upstream).sum(), [leaf, rule.relative])
    torch.testing.assert_close(theta_grad, -unit * (upstream * theta * window).sum(0))
    expected = upstream * ((u > theta) + (theta * window if reach == "all" else 0))
    torch.testing.assert_close(SparseCode(value_grad, support).to_dense(), expected)

    step = SparseCode(rule.channels(leaf, support)["step"], support).to_dense()
    assert torch.equal(step, (u > theta).to(DOUBLE))
    (theta_grad,) = torch.autograd.grad(step.sum(), [rule.relative], retain_graph=True)
    torch.testing.assert_close(theta_grad, -unit * window.sum(0))  # -(1 / bandwidth) * how many lie in the window
    (value_grad,) = torch.autograd.grad(step.sum(), [leaf], allow_unused=True)
    assert (value_grad is None) == (reach == "threshold")


def test_jumprelu_thresholds_stay_at_least_0():
    rule = JumpReLU(0.1, bandwidth=0.4)
    rule.prepare(4)
    with torch.no_grad():
        rule.relative.copy_(torch.tensor([-1.0, -1e-9, 0.0, 2.0]))
    rule.adapt(batch_step(torch.zeros(1, 4), 0.5))
    assert rule.threshold.tolist() == [0.0, 0.0, 0.0, 2.0]


# -- group bias -------------------------------------------------------------------------------------------------


def group_bias(**changes: Any) -> tuple[GroupBias, Tensor]:
    """A coder of 30 latents in 3 groups with `W_dec` `[30, 16]`."""
    settings = {"rate": 0.1, "period_tokens": 100, "bound": 0.25, "warm_start": False} | changes
    coder = GroupBias(16, group_targets(30, 3, 0.4, 0.01, None), **settings)
    return coder, torch.nn.functional.normalize(torch.randn(30, 16, generator=torch.Generator().manual_seed(0)), dim=1)


def watch(coder: GroupBias, rows: Tensor, x: Tensor) -> None:
    encoding = coder.encode(Seen(x, rows))
    coder.adapt(Step(0.5, encoding.code.detach()), rows)


def test_group_targets_fall_geometrically_and_add_up():
    target = group_targets(40, 4, 0.2, 0.025, None)
    torch.testing.assert_close(target, torch.tensor([0.2, 0.1, 0.05, 0.025]).repeat_interleave(10))
    assert float(group_targets(40, 4, 0.2, 0.025, 6.0).sum()) == pytest.approx(6.0)
    with pytest.raises(SaelabError, match="would need a frequency above 1"):
        group_targets(40, 4, 0.2, 0.025, 39.0)


def test_group_bias_is_not_learned_and_waits_for_a_full_period():
    coder, rows = group_bias()
    assert "b_enc" not in dict(coder.named_parameters())
    watch(coder, rows, torch.randn(99, 16))
    assert not coder.b_enc.any()
    watch(coder, rows, torch.randn(1, 16))
    assert bool((coder.b_enc < 0).any())
    assert float(coder.rule.tokens) == 0


def test_biases_of_busy_latents_only_fall_and_stop_at_the_bound():
    coder, rows = group_bias()
    x = torch.randn(200, 16)
    history = [coder.b_enc.clone()]
    for _ in range(60):
        watch(coder, rows, x)
        history.append(coder.b_enc.clone())
    path = torch.stack(history)
    lowered = (x @ rows.T > 0).float().mean(0) > coder.target
    assert bool(lowered.all())
    assert bool((path >= -0.25 * 16**0.5).all())
    rises = path.diff(dim=0) > 0
    assert not rises.any()  # none of them ever counts as dead here
    assert float(path.min()) == -1.0  # the bound was met


def test_busy_latents_converge_to_their_frequency():
    coder, rows = group_bias(bound=1.0, rate=0.02)
    x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    for _ in range(300):
        watch(coder, rows, x)
    frequency = (x @ rows.T + coder.b_enc > 0).float().mean(0)
    assert bool((frequency <= coder.target + 1e-3).all())
    assert bool((frequency >= 0.7 * coder.target).all())


def test_dead_latents_rise_by_their_groups_peaks_and_no_higher_than_0():
    coder, rows = group_bias(rate=0.2)
    coder.b_enc.fill_(-0.1)
    coder.b_enc[5] = -50.0
    coder.b_enc[25] = -50.0
    x = torch.randn(200, 16)
    peak = (x @ rows.T + coder.b_enc).amax(0).relu()
    watch(coder, rows, x)
    same_group = peak[:10][peak[:10] > 0]
    assert float(coder.b_enc[5]) == pytest.approx(-50 + 0.2 * float(same_group.mean()), rel=1e-5)
    for _ in range(2000):
        coder.b_enc[5] = min(float(coder.b_enc[5]), -3.9)
        coder.rule.fired[5], coder.rule.peak[:] = 0, 100.0
        coder.rule.tokens.fill_(100)
        coder.adapt(batch_step(torch.zeros(1, 30), 0.5), rows)
    assert float(coder.b_enc[5]) == 0.0


def test_a_warm_start_fires_at_the_target_frequencies():
    coder, rows = group_bias(warm_start=True, bound=10.0)
    x = torch.randn(3000, 16)
    coder.encode(Seen(x[:0], rows))  # says nothing yet
    assert not coder.started
    fired = coder.encode(Seen(x, rows)).code.firing_counts() / 3000
    torch.testing.assert_close(fired, coder.target, rtol=0, atol=1e-3)
    before = coder.b_enc.clone()
    coder.encode(Seen(3 * x, rows))
    assert torch.equal(coder.b_enc, before)


# -- codebook and relu: scale -----------------------------------------------------------------------------------


def built(kind: str, **changes: Any) -> SAE:
    torch.manual_seed(0)
    return build(kind, 16, {"n_latents": 64} | changes).sae.double()


def test_a_codebook_does_not_see_the_inputs_scale():
    sae = built("codebook", k=3)
    x = torch.randn(50, 16, dtype=DOUBLE)
    code = sae.encode(x).to_dense()
    assert torch.equal(sae.encode(37 * x).to_dense(), code)
    assert set(code.unique().tolist()) == {0.0, 1.0}
    assert code.sum(1).tolist() == [3.0] * 50
    cosines = torch.cosine_similarity(x[:, None], sae.W_dec[None], dim=2)
    assert torch.equal(code, torch.zeros_like(code).scatter(1, cosines.topk(3, dim=1).indices, 1.0))


def test_a_folded_codebook_carries_the_scale_in_its_rows():
    sae = built("codebook", k=3)
    folded = sae.inference(Scaling(torch.zeros(16, dtype=DOUBLE), 0.25))
    torch.testing.assert_close(folded.W_dec, 4 * sae.W_dec)
