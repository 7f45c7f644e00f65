"""Sparse encoder, decoder and auxiliary loss against plain dense autograd, in float64, on the same support."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from saelab.objectives import Objective, Pass
from saelab.sae import SAE, Blueprint, build
from saelab.sae.coders import OneStep
from saelab.sae.variants import LossTerm

D, F, K = 12, 40, 6
KINDS = {"topk": {"k": K, "aux_k": 8}, "abs_topk": {"k": K, "aux_k": 8}, "relu": {}}
CASES = ["plain", "few positive", "all negative", "k = n_latents", "no tokens"]


def encoder(sae: SAE) -> OneStep:
    assert isinstance(sae.coder, OneStep)
    return sae.coder


def prepare(kind: str, case: str) -> tuple[Blueprint, Tensor, Tensor]:
    """A variant with its biases off zero, a batch, and which latents count as dead."""
    torch.manual_seed(3)
    settings = dict(KINDS[kind])
    if case == "k = n_latents" and "k" in settings:
        settings["k"] = F
    blueprint = build(kind, D, {"n_latents": F, **settings})
    sae = blueprint.sae.double()
    with torch.no_grad():
        encoder(sae).b_enc.normal_(0, 0.3)
        sae.decoder.b_dec.normal_(0, 0.3)
        sae.decoder.W_dec.add_(torch.randn_like(sae.decoder.W_dec) * 0.1)
        if case == "few positive":
            encoder(sae).b_enc.sub_(1.6)
        if case == "all negative":
            encoder(sae).b_enc.sub_(50.0)
    x = torch.randn(0 if case == "no tokens" else 17, D, dtype=torch.float64)
    return blueprint, x, torch.arange(F) % 3 == 0


def total(blueprint: Blueprint, losses: Sequence[LossTerm], x: Tensor, dead: Tensor) -> Tensor:
    """The objective on one batch, at the end of training."""
    sae = blueprint.sae
    seen = sae.see(x)
    encoding = sae.coder.encode(seen)
    value, _ = Objective(losses, sae.coder)(Pass(sae, seen, x, encoding, sae.decode(encoding.code), dead, 1.0))
    return value


def dense_loss(sae: SAE, blueprint: Blueprint, x: Tensor, dead: Tensor) -> Tensor:
    """The same objective written out densely, selecting with sorts."""
    centred = x - sae.b_dec if sae.coder.centred else x
    pre = centred @ encoder(sae).W_enc.T + encoder(sae).b_enc
    z = select(blueprint.sae.identity.kind, pre, blueprint.sae.identity.settings.get("k"))
    error = x - (z @ sae.W_dec + sae.b_dec)
    n = max(x.shape[0], 1)
    if blueprint.sae.identity.kind == "relu":
        penalty = (z * sae.W_dec.norm(dim=1)).sum() / n
        return error.square().sum() / n + 5.0 * penalty
    tiny = torch.finfo(torch.float64).tiny
    mean = x.mean(0, keepdim=True) if x.shape[0] else 0.0
    main = error.square().sum() / (x - mean).square().sum().clamp_min(tiny)
    rest = error.detach()
    aux = select(blueprint.sae.identity.kind, pre[:, dead], min(8, int(dead.sum()))) @ sae.W_dec[dead]
    rest_mean = rest.mean(0, keepdim=True) if x.shape[0] else 0.0
    return main + (rest - aux).square().sum() / (rest - rest_mean).square().sum().clamp_min(tiny) / 32


def select(kind: str, pre: Tensor, k: int | None) -> Tensor:
    if kind == "relu":
        return pre.relu()
    score = pre if kind == "topk" else pre.abs()
    kept = torch.zeros_like(pre).scatter(1, score.topk(min(k or 0, pre.shape[1]), dim=1).indices, 1.0)
    return kept * (pre.relu() if kind == "topk" else pre)


@pytest.mark.parametrize("kernels", ["", "reference"])
@pytest.mark.parametrize("precision", ["exact", "screened"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_dense_autograd(monkeypatch, kind, case, precision, kernels):
    monkeypatch.setenv("SAELAB_KERNELS", kernels)
    blueprint, x, dead = prepare(kind, case)
    sae = blueprint.sae
    sae.coder.set_precision(precision)
    loss = total(blueprint, blueprint.losses, x, dead)
    loss.backward()
    sparse = {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}
    assert sparse.keys() == dict(sae.named_parameters()).keys()

    sae.zero_grad(set_to_none=True)
    expected = dense_loss(sae, blueprint, x, dead)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for name, parameter in sae.named_parameters():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(
            sparse[name], gradient, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_flows_to_the_input(kind):
    blueprint, x, _ = prepare(kind, "plain")
    x.requires_grad_()
    blueprint.sae(x).square().sum().backward()
    sparse = x.grad
    y = x.detach().clone().requires_grad_()
    sae = blueprint.sae
    pre = (y - sae.b_dec if sae.coder.centred else y) @ encoder(sae).W_enc.T + encoder(sae).b_enc
    (select(kind, pre, K) @ sae.W_dec + sae.b_dec).square().sum().backward()
    torch.testing.assert_close(sparse, y.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["topk", "abs_topk"])
def test_auxiliary_loss_teaches_dead_latents_alone_encoder_included(kind):
    blueprint, x, dead = prepare(kind, "plain")
    sae = blueprint.sae
    total(blueprint, [loss for loss in blueprint.losses if loss.kind == "auxk"], x, dead).backward()
    for parameter in (encoder(sae).W_enc, encoder(sae).b_enc, sae.W_dec):
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).norm(dim=1) if parameter.ndim > 1 else parameter.grad.abs()
        assert bool((moved[dead] > 0).any())
        assert not bool((moved[~dead] > 0).any())
