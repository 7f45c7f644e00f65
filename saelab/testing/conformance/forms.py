"""Checks of the inference form: it does what training found, token by token, on raw activations."""

from __future__ import annotations

import torch
from torch import Tensor

from saelab.sae import SAE, Scaling
from saelab.testing.conformance.case import Case, in_float64, seeded
from saelab.testing.conformance.compare import expect, expect_close

_L0_TOLERANCE = 0.1


def inference_form_keeps_what_training_found(case: Case) -> None:
    """The inference form reads activations alone, token by token. It has the codes of the evaluated training form
    where that is per token and reads nothing else; otherwise as many active latents, to 10 %, on the tokens it was
    calibrated on."""
    sae, _ = in_float64(case.trained())
    case.calibrate(sae)
    x, deployed = case.calibration.double(), sae.inference()
    expect(deployed.coder.per_token, "the inference form says that it is not per token")
    expect(not deployed.coder.requires, f"the inference form requires {', '.join(sorted(deployed.coder.requires))}")
    few = x[: case.batch_tokens]
    code = deployed.encode(few).to_dense()
    expect_close(in_halves(deployed, few), code, "in inference form a token's code depends on its batch")
    if sae.coder.per_token and not sae.coder.requires:
        sae.eval()
        evaluated = sae.encode(few).to_dense().detach()
        expect_close(in_halves(sae, few), evaluated, "it says that it is per token, and codes depend on the batch")
        expect_close(code, evaluated, "codes of the inference form are not those of the evaluated training form")
        return
    with seeded(0):
        training = torch.cat([sae.encode(b.input, b.side).l0() for b in map(case.beside, x.split(case.batch_tokens))])
    found, wanted = float(deployed.encode(x).l0().double().mean()), float(training.double().mean())
    expect(
        abs(found - wanted) <= _L0_TOLERANCE * wanted,
        f"{found:.4g} latents are active per token in inference form, {wanted:.4g} in training form",
    )


def scaling_folds_in(case: Case) -> None:
    """With the scalings of input and target folded in, raw activations have the same reconstructions and codes, in
    raw units: with one for both where the target is the input, with two where the encoder does not subtract the
    decoder's bias."""
    sae, _ = in_float64(case.trained())
    case.calibrate(sae)
    x = case.batch(1000).input.double()
    source, target = case.scaling(1), case.scaling(2, of_target=True)
    raw = x / source.factor + source.mean
    plain = sae.inference()
    unit = source.factor if sae.coder.homogeneous else 1.0
    if case.d_out is None:
        folded = sae.inference(source)
        expect_close(folded.encode(raw).to_dense() * unit, plain.encode(x).to_dense(), "a folded scaling changes codes")
        expect_close(scaled(folded(raw), source), plain(x), "a folded scaling changes reconstructions")
    if not sae.coder.centred:
        mapped = sae.inference(source, target)
        expect_close(
            mapped.encode(raw).to_dense() * unit, plain.encode(x).to_dense(), "two folded scalings change codes"
        )
        expect_close(scaled(mapped(raw), target), plain(x), "a target's folded scaling changes reconstructions")


def in_halves(sae: SAE, x: Tensor) -> Tensor:
    """The dense code of `x`, encoded in two parts."""
    half = len(x) // 2
    return torch.cat([sae.encode(part).to_dense() for part in (x[:half], x[half:])]).detach()


def scaled(x: Tensor, scaling: Scaling) -> Tensor:
    """`Scaling.apply` in float64."""
    return (x - scaling.mean) * scaling.factor
