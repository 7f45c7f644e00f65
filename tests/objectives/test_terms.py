"""Loss terms and the objective: written formulas, schedules, controllers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.objectives import TERMS, Objective, Pass
from saelab.objectives.objective import ramp
from saelab.objectives.terms.base import variance
from saelab.objectives.terms.sparsity import AnnealedLp
from saelab.sae import SAE, build
from saelab.sae.code import Encoding, Seen, SparseCode
from saelab.sae.coders import Gated, OneStep
from saelab.sae.rules import JumpReLU
from saelab.sae.variants import LossTerm
from saelab.testing.conformance import Case

D, F = 12, 40
DOUBLE = torch.float64


def made(kind: str, **settings: Any) -> SAE:
    torch.manual_seed(0)
    return build(kind, D, {"n_latents": F} | settings).sae.double()


def passed(sae: SAE, x: Tensor, *, dead: Tensor | None = None, progress: float = 1.0) -> Pass:
    seen = sae.see(x)
    encoding = sae.coder.encode(seen)
    dead = torch.zeros(sae.n_latents, dtype=torch.bool) if dead is None else dead
    return Pass(sae, seen, x, encoding, sae.decode(encoding.code), dead, progress)


def encoder(sae: SAE) -> OneStep:
    assert isinstance(sae.coder, OneStep)
    return sae.coder


def tokens(n: int = 30) -> Tensor:
    return torch.randn(n, D, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def with_code(code: Tensor, progress: float, sae: SAE | None = None) -> Pass:
    """A pass that consists of this dense code `[tok, lat]`."""
    sae = sae or made("relu")
    x = torch.zeros(len(code), D, dtype=DOUBLE)
    dead = torch.zeros(F, dtype=torch.bool)
    return Pass(sae, Seen(x, sae.W_dec), x, Encoding(SparseCode.from_dense(code)), x, dead, progress)


# -- formulas ---------------------------------------------------------------------------------------------------


def test_scaling_decoder_rows_up_and_encoder_rows_down_changes_neither_loss_nor_l1():
    sae, x = made("relu"), tokens()
    objective = Objective((LossTerm("sum_squared_error"), LossTerm("l1", 5.0)), sae.coder)
    before = objective(passed(sae, x))[0]
    factor = torch.logspace(-1, 1, F, dtype=DOUBLE)
    with torch.no_grad():
        sae.decoder.W_dec.mul_(factor[:, None])
        encoder(sae).W_enc.div_(factor[:, None])
        encoder(sae).b_enc.div_(factor)
    torch.testing.assert_close(objective(passed(sae, x))[0], before, rtol=1e-12, atol=1e-12)


def test_the_gates_losses_leave_the_decoder_alone():
    sae = made("gated")
    coder = sae.coder
    assert isinstance(coder, Gated)
    objective = Objective((LossTerm("gate_reconstruction"), LossTerm("gate_l1")), coder)
    objective(passed(sae, tokens()))[0].backward()
    assert sae.W_dec.grad is None or not sae.W_dec.grad.any()
    for parameter in (coder.W_enc, coder.b_gate):
        assert parameter.grad is not None
        assert bool(parameter.grad.any())
    for parameter in (coder.r_mag, coder.b_mag):
        assert parameter.grad is None or not parameter.grad.any()


def test_gate_reconstruction_is_the_papers_formula():
    sae, x = made("gated"), tokens()
    assert isinstance(sae.coder, Gated)
    gate = ((x - sae.b_dec) @ sae.coder.W_enc.T).relu()
    expected = (x - gate @ sae.W_dec - sae.b_dec).square().sum(1).mean()
    torch.testing.assert_close(TERMS["gate_reconstruction"]()(passed(sae, x)), expected)


def test_the_l0_terms_gradient_counts_the_window():
    sae, x, bandwidth = made("jumprelu", threshold=0.7, bandwidth=0.3), tokens(), 0.3
    pre = x @ encoder(sae).W_enc.T
    term = TERMS["l0"]()(passed(sae, x))
    assert float(term.detach()) == pytest.approx(float((pre > 0.7).sum() / 30))
    term.backward()
    rule = encoder(sae).rule
    assert isinstance(rule, JumpReLU)
    counted = ((pre - 0.7).abs() < bandwidth / 2).sum(0).double()
    torch.testing.assert_close(rule.relative.grad, -(D**0.5) * counted / bandwidth / 30)  # of theta / sqrt(d)
    assert bool(counted.any())


def test_kl_is_0_at_the_prior_and_its_gradient_is_the_mean():
    sae, term = made("variational", noise=1.0), TERMS["kl"]()

    def divergence(mean: Tensor, log_var: Tensor) -> Tensor:
        plain = passed(sae, tokens())
        encoding = Encoding(plain.code, {"mean": mean, "log_var": log_var})
        return term(Pass(sae, plain.seen, plain.target, encoding, plain.recon, plain.dead))

    zeros = torch.zeros(30, F, dtype=DOUBLE)
    assert float(divergence(zeros, zeros)) == 0
    assert float(divergence(zeros, torch.tensor(0.0, dtype=DOUBLE))) == 0
    mean = torch.randn(30, F, dtype=DOUBLE, requires_grad=True)
    log_var = torch.randn(30, F, dtype=DOUBLE, requires_grad=True)
    value = divergence(mean, log_var)
    by_torch = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_var / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(value, by_torch.sum(1).mean())
    value.backward()
    torch.testing.assert_close(mean.grad, mean.detach() / 30)
    torch.testing.assert_close(log_var.grad, (log_var.detach().exp() - 1) / 60)


def test_draws_scatter_around_the_mean_with_the_noise_asked_for():
    sae = made("variational", base="relu", noise=0.5)
    with torch.no_grad():
        encoder(sae).b_enc.fill_(20.0)  # the rule lets everything pass
    x = tokens(3)
    torch.manual_seed(0)
    draws = torch.stack([sae.encode(x).to_dense().detach() for _ in range(4000)])
    mean = (x @ encoder(sae).W_enc.T + 20.0).detach()
    assert float((draws.mean(0) - mean).abs().max()) < 5 * 0.5 / 4000**0.5
    assert float(draws.std(0).mean()) == pytest.approx(0.5, rel=0.01)


def test_afa_compares_the_weighted_codes_norm_with_the_centred_inputs():
    sae, x = made("top_afa"), tokens()
    with torch.no_grad():
        sae.decoder.b_dec.normal_()
        sae.decoder.W_dec.mul_(torch.linspace(0.5, 2, F, dtype=DOUBLE)[:, None])
    p = passed(sae, x)
    length = (p.code.to_dense() * sae.W_dec.norm(dim=1)).norm(dim=1)
    torch.testing.assert_close(TERMS["afa"]()(p), (length - (x - sae.b_dec).norm(dim=1)).square().mean())


def test_pre_act_lifts_what_lies_below_its_threshold():
    sae, x = made("jumprelu", threshold=0.7), tokens()
    dead = torch.arange(F) % 4 == 0
    pre = x @ encoder(sae).W_enc.T
    below = (0.7 - pre).relu() * sae.W_dec.norm(dim=1)
    torch.testing.assert_close(TERMS["pre_act"](on="all")(passed(sae, x)), below.sum(1).mean())
    torch.testing.assert_close(TERMS["pre_act"](on="dead")(passed(sae, x, dead=dead)), below[:, dead].sum(1).mean())


def test_revive_turns_dead_rows_towards_the_residual():
    sae, x = made("matching_pursuit", k=2), tokens()
    dead = torch.arange(F) == 7
    p = passed(sae, x, dead=dead)
    TERMS["revive"]()(p).backward()
    assert sae.W_dec.grad is not None
    torch.testing.assert_close(sae.W_dec.grad[7], -(x - p.recon.detach()).mean(0))
    assert not sae.W_dec.grad[~dead].any()
    assert float(TERMS["revive"]()(passed(sae, x))) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_batch_without_variance_has_a_finite_loss(dtype):
    assert float(variance(torch.zeros(0, D, dtype=dtype))) > 0
    assert float(variance(torch.zeros(5, D, dtype=dtype))) > 0
    same = torch.full((5, D), 3.0, dtype=dtype)
    assert bool(torch.isfinite((same + 1).square().sum() / variance(same)))
    x = tokens().to(dtype)
    assert torch.equal(variance(x), (x - x.mean(0)).square().sum())


# -- schedules --------------------------------------------------------------------------------------------------


def test_a_ramp_rises_linearly_and_stays():
    term = LossTerm("l1", warmup_frac=0.2)
    assert [ramp(term, progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.7)] == [0, 0.25, 0.5, 1, 1]
    assert ramp(LossTerm("l1"), 0.0) == 1


def codes(n: int) -> list[Tensor]:
    torch.manual_seed(5)
    return [(torch.rand(64, F, dtype=DOUBLE) < 0.1) * 20 * torch.rand(64, F, dtype=DOUBLE) for _ in range(n)]


def test_annealing_reaches_its_end_in_equal_periods():
    term: Any = AnnealedLp(p_end=0.4, start_frac=0.5, updates=3)
    due = [term.due((step + 0.5) / 60) for step in range(60)]
    assert due == [0] * 30 + [1] * 10 + [2] * 10 + [3] * 10
    assert [round(term.exponent(update), 12) for update in range(5)] == [1.0, 0.8, 0.6, 0.4, 0.4]
    for step, code in enumerate(codes(60)):
        term(with_code(code, (step + 0.5) / 60))
        assert int(term.update) == due[step]


def test_annealing_does_not_jump():
    term: Any = AnnealedLp(p_end=0.3, start_frac=0.5, updates=2).double()
    sae = made("relu", decoder_norm=1.0)
    same = codes(1)[0]
    values = [float(term(with_code(same, step / 40, sae)).detach()) for step in range(40)]
    assert values == pytest.approx([values[0]] * 40, rel=1e-9)
    assert float(term.scale) > 2  # though the raw penalty fell


def test_annealing_compares_over_its_last_batches():
    term: Any = AnnealedLp(p_end=0.5, start_frac=0.5, updates=1).double()
    sae = made("relu", decoder_norm=1.0)
    batches = codes(31)
    for step, code in enumerate(batches):
        term(with_code(code, step / 60, sae))

    def mean(exponent: float) -> float:
        powers = [((c + term.EPS) ** exponent - term.EPS**exponent)[c > 0].sum() for c in batches[20:30]]
        return float(torch.stack(powers).mean())

    assert float(term.scale) == pytest.approx(mean(1.0) / mean(0.5))


def test_measuring_changes_neither_annealing_nor_controllers():
    sae = made("relu")
    losses = (LossTerm("annealed_lp", target_l0=2.0, settings={"p_end": 0.5, "start_frac": 0.0, "updates": 4}),)
    objective = Objective(losses, sae.coder).double()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    with torch.no_grad():
        objective(with_code(codes(1)[0], 0.5))
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


# -- controllers ------------------------------------------------------------------------------------------------


def steered(target: float, warmup_frac: float = 0.0) -> Objective:
    loss = LossTerm("l1", 5.0, warmup_frac, target)
    return Objective((LossTerm("sum_squared_error"), loss), made("relu").coder).double()


@pytest.mark.parametrize(("target", "sign"), [(1.0, 1), (20.0, -1)])
def test_a_controller_raises_the_weight_where_too_many_are_active_and_lowers_it_where_too_few(target, sign):
    objective = steered(target)
    totals = [float(objective(with_code(codes(1)[0], 0.5))[0].detach()) for _ in range(10)]
    assert all(sign * (later - earlier) > 0 for earlier, later in pairwise(totals))
    assert float(objective.log_gain[0]) == 0  # the reconstruction has no target


def test_a_controller_rests_at_its_target_during_the_warm_up_and_at_its_bounds():
    code = torch.zeros(10, F, dtype=DOUBLE)
    code[:, :4] = 1.0
    exact, warming, far = steered(4.0), steered(1.0, warmup_frac=0.6), steered(1e-6)
    for _ in range(3):
        exact(with_code(code, 0.5))
        warming(with_code(code, 0.5))
    assert float(exact.log_gain[1]) == pytest.approx(0, abs=1e-6)
    assert float(warming.log_gain[1]) == 0
    for _ in range(700):
        far(with_code(code, 0.5))
    assert float(far.log_gain[1]) == 12.0


def test_a_term_without_its_channel_is_refused_by_name():
    with pytest.raises(SaelabError, match="the loss term 'l0' needs step, which OneStep does not provide"):
        Objective((LossTerm("l0"),), made("topk", k=4).coder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("jumprelu", {"target_l0": 4.0}),
        ("jumprelu", {"target_l0": 4.0, "penalty": "l0", "coefficient": 1.0}),
        ("relu", {"target_l0": 4.0}),
        ("gated", {"target_l0": 4.0}),
    ],
)
def test_training_ends_near_the_l0_that_was_asked_for(kind, settings):
    case = Case(kind, {"n_latents": 64} | settings, batch_tokens=128)
    l0 = case.trained(800).sae.inference().encode(case.calibration).l0().float().mean()
    assert float(l0) == pytest.approx(4.0, rel=0.1)
