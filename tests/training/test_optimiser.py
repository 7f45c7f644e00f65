"""The optimiser step in two passes against torch's own, operation by operation."""

from __future__ import annotations

import copy

import pytest
import torch

from saelab.sae import build
from saelab.training import TrainSpec, optimiser


def step_both_ways(monkeypatch, spec, *, unit_norm, gradients, dtype=torch.float64, steps=4):
    """`[compiled, torch]`: the SAEs after some steps, and the norms each step reported."""
    torch.manual_seed(0)
    start = build("topk", 6, {"n_latents": 20, "k": 3}).sae.to(dtype)
    found = []
    for name in ("cpu", "builtin"):
        monkeypatch.setenv("SAELAB_KERNELS", name)
        sae = copy.deepcopy(start)
        adam = optimiser.adam(sae, spec)
        norms = []
        for number in range(steps):
            draw = torch.Generator().manual_seed(number)
            for parameter in sae.parameters():
                parameter.grad = gradients(parameter, draw)
            norms.append(optimiser.step(sae, adam, spec, number, unit_norm=unit_norm))
        found.append((sae, adam, norms))
    return found


def noise(parameter, draw):
    return torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("grad_clip", [None, 0.5, 100.0])
def test_two_passes_do_what_torch_does(monkeypatch, unit_norm, grad_clip):
    spec = TrainSpec(tokens=10**6, warmup_steps=2, lr=1e-2, betas=(0.8, 0.95), grad_clip=grad_clip)
    (a, adam_a, norms_a), (b, adam_b, norms_b) = step_both_ways(monkeypatch, spec, unit_norm=unit_norm, gradients=noise)
    for (name, one), two in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-10, msg=name)
        for key, value in adam_b.state[two].items():
            torch.testing.assert_close(adam_a.state[one][key], value, atol=1e-12, rtol=1e-10)
    assert (norms_a[0] is None) == (grad_clip is None)
    if grad_clip is not None:
        torch.testing.assert_close(torch.stack(norms_a), torch.stack(norms_b))
    if unit_norm:
        torch.testing.assert_close(a.W_dec.norm(dim=1), torch.ones(20, dtype=torch.float64))


def test_parameters_without_a_gradient_stay(monkeypatch):
    def some(parameter, draw):
        return noise(parameter, draw) if parameter.ndim == 2 else None

    (a, adam, _), _ = step_both_ways(monkeypatch, TrainSpec(tokens=10**6), unit_norm=True, gradients=some)
    assert not a.b_dec.any()
    assert a.b_dec not in adam.state


def test_a_gradient_that_is_not_a_number_is_seen(monkeypatch):
    def broken(parameter, draw):
        return torch.full_like(parameter, float("nan"))

    found = step_both_ways(monkeypatch, TrainSpec(tokens=10**6), unit_norm=True, gradients=broken, steps=1)
    for sae, _, norms in found:
        assert not torch.isfinite(norms[0])
        assert sae.W_dec.isnan().any()


def test_vanishing_moments_become_zero(monkeypatch):
    spec = TrainSpec(tokens=10**6, betas=(0.1, 0.1), grad_clip=None)
    monkeypatch.setenv("SAELAB_KERNELS", "cpu")
    sae = build("topk", 6, {"n_latents": 20, "k": 3}).sae
    adam = optimiser.adam(sae, spec)
    for number in range(30):
        for parameter in sae.parameters():
            parameter.grad = torch.full_like(parameter, 1e-15 if number == 0 else 0.0)
        optimiser.step(sae, adam, spec, number, unit_norm=False)
    assert not any(state["exp_avg"].any() or state["exp_avg_sq"].any() for state in adam.state.values())
