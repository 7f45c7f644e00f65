"""Identities in float64: what one variant is in the limit of another, and what matching pursuit conserves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.objectives import Objective, Pass
from saelab.sae import Blueprint, SparseCode, build
from saelab.sae.code import Seen
from saelab.sae.coders import Gated, GroupBias, OneStep, Pursuit, pursuit
from saelab.sae.rules import BatchTopK, FeatureChoice, JumpReLU, ReLU, SelectionRule, TopK

D, F, TOKENS = 12, 40, 30
DOUBLE = torch.float64


def assert_close(found: Tensor, wanted: Tensor, name: str = "", tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")


def code_of(rule: SelectionRule, pre: Tensor, seen: Seen | None = None) -> Tensor:
    """What a rule makes of `[tok, lat]` pre-activations, dense."""
    support = rule.candidates(pre, seen or Seen(pre, torch.eye(pre.shape[1], dtype=pre.dtype)))
    values = pre[support.rows, support.latents[: support.nnz].long()]
    return SparseCode(rule.activate(values, support), support).to_dense()


def made(kind: str, **settings: Any) -> Blueprint:
    """In float64, with biases off zero; the same weights for every kind that has them."""
    torch.manual_seed(0)
    blueprint = build(kind, D, {"n_latents": F, **settings})
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sorted(blueprint.sae.double().named_parameters()):
        if name.endswith(("b_enc", "b_dec", "b_gate", "b_mag")):
            parameter.data.normal_(0, 0.3, generator=generator)
    return blueprint


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(TOKENS, D, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def side(seed: int = 5) -> dict[str, Tensor]:
    return {"loss_grad": tokens(seed)}


def learnt(blueprint: Blueprint, beside: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Loss, code and gradients of one training step in which a third of the latents are dead."""
    sae, x = blueprint.sae, tokens()
    seen = sae.see(x, beside)
    encoding = sae.coder.encode(seen)
    objective = Objective(blueprint.losses, sae.coder).double()
    dead = torch.arange(F) % 3 == 0
    total, _ = objective(Pass(sae, seen, x, encoding, sae.decode(encoding.code), dead, 1.0))
    sae.zero_grad()
    total.backward()
    gradients = {name: p.grad for name, p in sae.named_parameters() if p.grad is not None}
    return {"loss": total.detach(), "code": encoding.code.to_dense().detach(), **gradients}


def assert_equal_learning(a: dict[str, Tensor], b: dict[str, Tensor], *, to_the_bit: bool = False) -> None:
    assert a.keys() == b.keys()
    for name in a:
        if to_the_bit:
            assert torch.equal(a[name], b[name]), name
        else:
            assert_close(a[name], b[name], name)


# -- degenerate limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, F])
def test_batch_topk_on_a_batch_of_one_is_topk(k):
    for seed in range(20):
        u = torch.randn(1, F, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(code_of(BatchTopK(k), u), code_of(TopK(k), u))


@pytest.mark.parametrize("m", [1, 3, 20])
def test_uniform_feature_choice_is_topk_of_the_transpose(m):
    u = torch.randn(TOKENS, F, dtype=DOUBLE)
    rule = FeatureChoice(1, zipf=False, mutual_frac=0.0)
    rule.prepare(F)
    rule.density.fill_(m / TOKENS)
    assert torch.equal(code_of(rule, u), code_of(TopK(m), u.T).T)


@pytest.mark.parametrize("kernels", ["", "reference"])
def test_matryoshka_with_one_prefix_is_batch_topk(monkeypatch, kernels):
    monkeypatch.setenv("SAELAB_KERNELS", kernels)
    assert_equal_learning(learnt(made("matryoshka", k=5, prefixes=(F,))), learnt(made("batch_topk", k=5)))


def test_matryoshka_is_the_mean_over_prefixes_of_the_error_with_each_alone():
    blueprint = made("matryoshka", k=5, prefixes=(5, 17, F), aux_coefficient=0.0)
    found, sae, x = learnt(blueprint), blueprint.sae, tokens()
    errors = [
        (x - found["code"][:, :m] @ sae.W_dec[:m] - sae.b_dec).square().sum() / (x - x.mean(0)).square().sum()
        for m in (5, 17, F)
    ]
    assert_close(found["loss"], torch.stack(errors).mean().detach())


@pytest.mark.parametrize("normalise", [True, False])
def test_gradient_topk_with_beta_0_or_no_gradient_is_topk_to_the_bit(normalise):
    plain = learnt(made("topk", k=5))
    without = learnt(made("gradient_topk", k=5, beta=0.0, normalise=normalise), side())
    silent = learnt(made("gradient_topk", k=5, normalise=normalise), {"loss_grad": torch.zeros(TOKENS, D)})
    assert_equal_learning(without, plain, to_the_bit=True)
    assert_equal_learning(silent, plain, to_the_bit=True)


@pytest.mark.parametrize("base", ["topk", "relu"])
def test_variational_without_noise_and_kl_is_its_base(base):
    settings = {"k": 5} if base == "topk" else {}
    variational = made("variational", base=base, noise=0.0, kl=0.0, aux_k=8, **settings)
    plain = made("topk", aux_k=8, **({"k": 5} if base == "topk" else {"k": F}))  # TopK of all latents is ReLU
    assert_equal_learning(learnt(variational), learnt(plain))


@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_variational_inference_takes_the_mean(variance):
    sae, plain = made("variational", k=5, variance=variance).sae, made("topk", k=5).sae
    x = tokens()
    assert torch.equal(sae.inference().encode(x).to_dense(), plain.encode(x).to_dense())
    assert torch.equal(sae.eval().encode(x).to_dense(), plain.encode(x).to_dense())
    assert not torch.equal(sae.train().encode(x).to_dense(), plain.encode(x).to_dense())


@pytest.mark.parametrize("training", [True, False])
def test_jumprelu_with_thresholds_0_is_relu(training):
    rule = JumpReLU(0.0, bandwidth=0.5)
    rule.prepare(F)
    u = torch.randn(TOKENS, F, dtype=DOUBLE)
    assert torch.equal(code_of(rule.train(training), u), code_of(ReLU(), u))


def test_gated_with_equal_biases_and_no_rescaling_is_relu():
    sae, relu = made("gated").sae, made("relu").sae
    gated, plain = sae.coder, relu.coder
    assert isinstance(gated, Gated)
    assert isinstance(plain, OneStep)
    with torch.no_grad():
        gated.b_mag.copy_(gated.b_gate)
        plain.W_enc.copy_(gated.W_enc)
        plain.b_enc.copy_(gated.b_gate)
        relu.decoder.load_state_dict(sae.decoder.state_dict())
    plain.centred = True
    assert_close(sae.encode(tokens()).to_dense(), relu.encode(tokens()).to_dense())
    assert_close(sae(tokens()), relu(tokens()))


def test_group_bias_with_its_scale_is_a_tied_relu():
    sae = made("group_bias", warm_start=False, l0=5.0).sae
    coder, x = sae.coder, tokens()
    assert isinstance(coder, GroupBias)
    with torch.no_grad():
        coder.log_scale.normal_()
        coder.b_enc.normal_()
    expected = coder.log_scale.exp() * ((x - sae.b_dec) @ sae.W_dec.T + coder.b_enc).relu()
    assert_close(sae.encode(x).to_dense(), expected)


def test_matching_pursuit_of_one_step_is_top_1_of_its_own_rows():
    sae = made("matching_pursuit", k=1).sae
    x = tokens()
    assert torch.equal(sae.encode(x).to_dense() != 0, code_of(TopK(1), (x - sae.b_dec) @ sae.W_dec.T) != 0)
    assert_close(sae.encode(x).to_dense(), code_of(TopK(1), (x - sae.b_dec) @ sae.W_dec.T))


# -- selection is held fixed: autograd is the derivative of the loss ------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("topk", {"k": 5, "aux_coefficient": 0.0, "multi_k": 20}),
        ("abs_topk", {"k": 5, "aux_coefficient": 0.0}),
        ("batch_topk", {"k": 5, "aux_coefficient": 0.0}),
        ("matryoshka", {"k": 5, "aux_coefficient": 0.0}),
        ("feature_choice", {"k": 5, "aux_coefficient": 0.0, "quotas": "uniform", "mutual_frac": 0.0}),
        ("gradient_topk", {"k": 5, "aux_coefficient": 0.0}),
        ("top_afa", {"aux_coefficient": 0.0}),
        ("relu", {}),
        ("relu", {"p_end": 0.5, "p_start_frac": 0.0}),
        ("matching_pursuit", {"k": 5, "revive": 0.0}),
        ("matching_pursuit", {"k": 5, "revive": 0.0, "selection": "absolute"}),
        ("variational", {"k": 5, "aux_coefficient": 0.0, "variance": "learned"}),
        ("variational", {"base": "relu", "aux_coefficient": 0.0}),
        ("group_bias", {"l0": 5.0}),
        ("codebook", {"k": 3}),
    ],
)
def test_autograd_equals_finite_differences_along_a_random_direction(kind, settings):
    blueprint = made(kind, **settings)
    sae = blueprint.sae
    learnt(blueprint, side())  # a warm start, where there is one
    torch.manual_seed(2)
    found = learnt(blueprint, side())
    torch.manual_seed(3)
    direction = {name: torch.randn_like(parameter) for name, parameter in sae.named_parameters()}
    assert bool(found["code"].any())
    slope = sum(float((found[name] * direction[name]).sum()) for name in direction if name in found)
    losses, small = [], 1e-6
    for sign in (1, -1, -1, 1):  # up, down, and back
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                parameter += sign * small * direction[name]
        torch.manual_seed(2)
        step = learnt(blueprint, side())
        assert torch.equal(step["code"] != 0, found["code"] != 0)
        losses.append(float(step["loss"]))
    up, _, down, _ = losses
    assert (up - down) / (2 * small) == pytest.approx(slope, rel=1e-5, abs=1e-7)


# -- matching pursuit -------------------------------------------------------------------------------------------


def unit_rows(n_latents: int, d: int) -> Tensor:
    torch.manual_seed(4)
    return torch.nn.functional.normalize(torch.randn(n_latents, d, dtype=DOUBLE), dim=1)


def naive(x: Tensor, rows: Tensor, steps: int, selection: str) -> tuple[Tensor, Tensor, Tensor]:
    """The recursion as the paper writes it: codes, coefficients `[tok, steps]`, residuals `[steps + 1, tok, d]`."""
    code = torch.zeros(len(x), len(rows), dtype=x.dtype)
    residuals, amounts = [x], []
    for _ in range(steps):
        correlation = residuals[-1] @ rows.T
        best = (correlation if selection == "positive" else correlation.abs()).argmax(1)
        amount = correlation.gather(1, best[:, None]).squeeze(1)
        if selection == "positive":
            amount = amount.relu()
        code[torch.arange(len(x)), best] += amount
        residuals.append(residuals[-1] - amount[:, None] * rows[best])
        amounts.append(amount)
    return code, torch.stack(amounts, 1), torch.stack(residuals)


def pursued(x: Tensor, rows: Tensor, steps: int, selection: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, coefficients and picks by way of `pursue` and the triangular solve."""
    picked, used = pursuit.pursue(x, rows, steps, selection=selection)
    amounts = torch.where(used, pursuit.solve(x, rows, picked, used), 0.0)
    return pursuit.merged(picked, amounts, used, len(rows)).to_dense(), amounts, picked


@pytest.mark.parametrize("selection", ["positive", "absolute"])
@pytest.mark.parametrize(("n_latents", "steps"), [(F, 6), (6, 9), (F, 70)])
@pytest.mark.parametrize("gram", [True, False])
def test_gram_naive_and_triangular_solve_are_one(monkeypatch, selection, n_latents, steps, gram):
    if not gram:
        monkeypatch.setattr(pursuit, "_GRAM_BYTES", 0)
    rows, x = unit_rows(n_latents, D), tokens()
    code, amounts, _ = naive(x, rows, steps, selection)
    found_code, found_amounts, _ = pursued(x, rows, steps, selection)
    assert_close(found_amounts, amounts, tolerance=1e-10)
    assert_close(found_code, code, tolerance=1e-10)


@pytest.mark.parametrize("selection", ["positive", "absolute"])
def test_energy_is_conserved_and_residuals_never_grow(selection):
    rows, x, steps = unit_rows(F, D), tokens(), 25
    _, amounts, picked = pursued(x, rows, steps, selection)
    lengths = []
    for step in range(steps + 1):
        residual = x - (amounts[:, :step, None] * rows[picked[:, :step]]).sum(1)
        lengths.append(residual.norm(dim=1))
        energy = amounts[:, :step].square().sum(1) + residual.square().sum(1)
        assert_close(energy, x.square().sum(1))
        if step:
            last = (residual * rows[picked[:, step - 1]]).sum(1)
            assert float(torch.where(amounts[:, step - 1] != 0, last, 0.0).abs().max()) < 1e-12
    lengths = torch.stack(lengths)
    assert bool((lengths[1:] <= lengths[:-1] + 1e-12).all())
    assert bool((lengths[-1] < 0.7 * lengths[0]).all())


def test_an_orthonormal_dictionary_gives_the_positive_part_or_all_of_the_coefficients():
    basis = torch.linalg.qr(torch.randn(D, D, dtype=DOUBLE))[0]
    x = tokens()
    assert_close(pursued(x, basis, D, "positive")[0], (x @ basis.T).relu())
    everything = pursued(x, basis, D, "absolute")[0]
    assert_close(everything, x @ basis.T)
    assert_close(everything @ basis, x)


def test_a_token_stops_at_its_residual_threshold_and_not_before():
    rows, x, least = unit_rows(F, D), tokens(), 2.0
    _, _, residuals = naive(x, rows, 20, "positive")
    wanted = (residuals.norm(dim=2)[:-1] > least).sum(0)
    _, used = pursuit.pursue(x, rows, 20, selection="positive", residual_threshold=least)
    assert used.sum(1).tolist() == wanted.tolist()
    assert 0 < int(wanted.min()) < int(wanted.max()) <= 20


def test_a_pursuit_may_end_with_the_first_latent_that_it_picks_twice():
    rows, x = unit_rows(F, D), tokens()
    picked, used = pursuit.pursue(x, rows, 20, selection="positive")
    ended, taken = pursuit.pursue(x, rows, 20, selection="positive", ends_at_repeat=True)
    ends = set()
    for token, row in enumerate(picked.tolist()):
        repeat = next((step for step in range(20) if row[step] in row[:step]), 19)
        steps = min(repeat + 1, int(used[token].sum()))
        assert ended[token, :steps].tolist() == row[:steps]
        assert int(taken[token].sum()) == steps
        ends.add(steps)
    assert len(ends) > 2


def test_pursuit_ends_where_no_correlation_is_positive():
    rows = torch.eye(3, dtype=DOUBLE)
    x = torch.tensor([[1.0, -1.0, -2.0], [-1.0, -1.0, -1.0]], dtype=DOUBLE)
    picked, used = pursuit.pursue(x, rows, 3, selection="positive")
    assert used.sum(1).tolist() == [1, 0]
    assert picked[0, 0] == 0


def test_steps_may_change_at_inference_and_more_of_them_never_reconstruct_worse():
    sae = made("matching_pursuit", k=2).sae.inference()
    coder, x, errors = sae.coder, tokens(), []
    assert isinstance(coder, Pursuit)
    for coder.steps in (1, 2, 5, 30):
        errors.append((sae(x) - x).norm(dim=1))
    assert all(bool((more <= fewer + 1e-12).all()) for fewer, more in pairwise(errors))


def test_pursuit_has_the_same_gradient_every_time_with_several_threads():
    """The backward of plain indexing adds in the order in which threads arrive."""
    x, rows = torch.randn(2048, 64), torch.nn.functional.normalize(torch.randn(64, 64), dim=1).requires_grad_()
    picked, used = pursuit.pursue(x, rows, 8, selection="positive")
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = [
            torch.autograd.grad(pursuit.solve(x, rows, picked, used).square().sum(), rows)[0] for _ in range(8)
        ]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
