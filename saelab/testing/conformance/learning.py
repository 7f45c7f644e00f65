"""Checks of learning: gradients, kernels, selection in low precision, odd batches."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from saelab.objectives import Objective
from saelab.sae import SAE
from saelab.testing.conformance.case import Case, in_float64, one_step, seeded
from saelab.testing.conformance.compare import expect, expect_close


def everything_learns(case: Case) -> None:
    """Every channel and every loss term has a gradient for some parameter, and every parameter gets one.

    A channel without dimensions may be a constant.
    """
    sae, _ = in_float64(case.trained())
    batch = case.batch(1000)
    with seeded(7):
        channels = sae.coder.encode(sae.see(batch.input, batch.side)).channels
    declared, found = sorted(sae.coder.provides), sorted(channels)
    expect(declared == found, f"the coder declares that it provides {declared}, and provides {found}")
    for name, channel in channels.items():
        if channel.ndim > 0 or channel.requires_grad:
            expect(reaches_a_parameter(channel, sae), f"the channel '{name}' has no gradient for any parameter")
    parameters = dict(sae.named_parameters())
    learning: set[str] = set()
    for loss in case.blueprint().losses:
        results = one_step(sae, Objective((loss,), sae.coder).double(), batch)
        reached = {name for name in parameters if bool(results[f"the gradient of {name}"].any())}
        expect(bool(reached), f"the loss term '{loss.kind}' has no gradient for any parameter")
        learning |= reached
    idle = sorted(parameters.keys() - learning)
    expect(not idle, f"no loss term has a gradient for {', '.join(idle)}")


def reaches_a_parameter(value: Tensor, sae: SAE) -> bool:
    if not value.requires_grad:
        return False
    gradients = torch.autograd.grad(value.sum(), list(sae.parameters()), allow_unused=True, retain_graph=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def kernels_agree(case: Case) -> None:
    """In float64 sparse kernels, matrix products and the reference give the same loss, code and gradients; the
    reconstruction is `code W_dec + b_dec`, and what a skip connection adds; a latent occurs at most once in a row."""
    sae, objective = in_float64(case.trained())
    batch = case.batch(1000)
    with seeded(7):
        code = sae.encode(batch.input, batch.side)
    places = code.support.rows * code.n_latents + code.latents[: code.support.nnz]
    expect(len(places.unique()) == len(places), "a latent occurs twice in a token's code")
    results = {}
    for kernels in ("reference", "cpu", "builtin", "dense"):  # Triton has its own tests
        with forced(kernels):
            results[kernels] = one_step(copy.deepcopy(sae), copy.deepcopy(objective), batch)
    reference = results.pop("reference")
    product = reference["the code"] @ sae.W_dec + sae.decoder.affine(batch.input.to(sae.W_dec))
    expect_close(reference["the reconstruction"], product.detach(), "the reconstruction is not code W_dec + b_dec")
    for kernels, found in results.items():
        for name, wanted in reference.items():
            expect_close(found[name], wanted, f"{name} is not the same with {kernels} kernels and with reference ones")


def screening_finds_the_same_code(case: Case) -> None:
    """Selected in bfloat16 and re-scored exactly, nearly every entry is the same, with the same value."""
    sae, batch = case.trained().sae, case.batch(1000)
    codes = []
    for precision in ("exact", "screened"):
        own = copy.deepcopy(sae)
        own.coder.set_precision(precision)
        with seeded(7):
            codes.append(own.encode(batch.input, batch.side).to_dense().detach())
    exact, screened = codes
    both, either = (exact != 0) & (screened != 0), (exact != 0) | (screened != 0)
    agreed = int(both.sum()) / max(int(either.sum()), 1)
    expect(agreed >= 0.98, f"screened selection shares {agreed:.1%} of its active entries with exact selection")
    expect_close(screened[both], exact[both], "screened selection changes values", tolerance=1e-5)


def finite_on_odd_batches(case: Case) -> None:
    """A batch with rows of zeros, of one token, or of none leaves losses, gradients, weights and buffers finite,
    at the first step of a training and at its end."""
    ordinary = case.batch(1000)
    zeros = ordinary.input.clone()
    zeros[::7] = 0.0
    odd = {"rows of zeros": case.beside(zeros), "one token": case.batch(1, 1), "no token": case.batch(1, 0)}
    for what, batch in odd.items():
        for when, member in (("at first", case.member()), ("at last", case.trained())):
            with seeded(7):
                for number, each in enumerate((batch, ordinary)):
                    state = member.step(each, number) | member.tensors()
                    del state["metrics/explained_variance"]  # one token does not vary
                    wrong = sorted(name for name, value in state.items() if not bool(torch.isfinite(value).all()))
                    sentence = f"a batch with {what}, {when} in training, leaves {', '.join(wrong)} not finite"
                    expect(not wrong, sentence)


def loss_falls(case: Case) -> None:
    """The reconstruction, a variant's first loss term, gets better on batches that are seen again and again."""
    member, losses = case.member(), []
    few = max(case.steps // 10, 1)
    with seeded(0):
        for number in range(case.steps):
            metrics = member.step(case.batch(number % few), number)
            losses.append(float(metrics[f"losses/{member.objective.names[0]}"]))
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    expect(last < first, f"the reconstruction loss does not fall: {first:.4g} at first, {last:.4g} at last")


@contextmanager
def forced(kernels: str) -> Iterator[None]:
    """These kernels and no others."""
    before = os.environ.get("SAELAB_KERNELS")
    os.environ["SAELAB_KERNELS"] = kernels
    try:
        yield
    finally:
        if before is None:
            del os.environ["SAELAB_KERNELS"]
        else:
            os.environ["SAELAB_KERNELS"] = before
