"""Starting from another SAE's weights: an earlier run, or one that was imported."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.sae import SAE, Scaling
from saelab.training.run_directory import RunDirectory

_UNIT = 1e-4
"""Rows whose norm differs less from 1 have norm 1."""


def load_start(path: Path | str) -> SAE:
    """The trained SAE of a run's directory, or the one that `SAE.load` reads there.

    Raises:
        SaelabError: neither is there, or it is damaged.
    """
    run = RunDirectory(Path(path))
    if run.finished:
        return SAE.load(run.sae)
    if run.config.exists():
        raise SaelabError("this run has no trained SAE yet", where=str(path), fix="saelab train, or wait for it")
    return SAE.load(path)


@torch.no_grad()
def start_from(
    sae: SAE, other: SAE, scaling: Scaling | None = None, target: Scaling | None = None, *, unit_norm: bool = False
) -> None:
    """Give `sae`, in training form and not yet trained, the weights of `other`.

    `other` reads raw activations; its scaling is taken out again, the exact reverse of `SAE.inference`. What
    only training has (a head for a variance, quotas, thresholds that are calibrated at the end) starts as
    ever, thresholds that are learned start where `other`'s are. A skip connection that `other` lacks stays 0.

    Args:
        scaling: of the input, as `sae` will be trained; None for raw activations.
        target: of the output; None where it is the input.
        unit_norm: bring the decoder's rows to norm 1, and activations to the scale that makes up for it.
            This changes which latents are largest where rows had different norms.

    Raises:
        SaelabError: they have different shapes or parts, or `other` is in training form.
    """
    check_start(sae, other)
    taken = copy.deepcopy(other).cpu().double()
    if scaling is not None or target is not None:
        source = scaling or Scaling(torch.zeros(taken.identity.d_in), 1.0)
        taken.fold(_reverse(source), None if target is None else _reverse(target))
    if taken.coder.centred != sae.coder.centred:
        _move_centre(taken)
    try:
        if unit_norm:
            _normalise(taken, sae.W_dec)
        sae.coder.adopt(taken.coder, taken.W_dec)
    except SaelabError as error:
        raise _refusal(sae, other, error.message) from error
    theirs = dict(taken.decoder.named_parameters())
    for name, parameter in sae.decoder.named_parameters():
        if name in theirs:
            parameter.copy_(theirs[name])


def _refusal(sae: SAE, other: SAE, message: str, fix: str | None = None) -> SaelabError:
    kinds = f"'{sae.identity.kind}' from this '{other.identity.kind}'"
    return SaelabError(f"cannot start {kinds}: {message}", where="init_from", fix=fix)


def check_start(sae: SAE, other: SAE) -> None:
    """Raise where `sae`, which may have no memory yet, has another shape or other parts than `other`."""
    mine, theirs = sae.identity, other.identity
    if theirs.form != "inference":
        message = "it is in training form, which does not say what scaling it saw"
        raise _refusal(sae, other, message, "save its inference() form")
    shapes = [(each.n_latents, each.identity.d_in, each.identity.d_out) for each in (sae, other)]
    if shapes[0] != shapes[1]:
        wanted, found = (f"{n} latents from width {d_in} to {d_out}" for n, d_in, d_out in shapes)
        raise _refusal(sae, other, f"it has {found}, not {wanted}")
    if mine.transcoder != theirs.transcoder:
        targets = ("its input", "another target")
        message = f"it reconstructs {targets[theirs.transcoder]}, not {targets[mine.transcoder]}"
        raise _refusal(sae, other, message)
    if theirs.token_scale is not None:
        raise _refusal(sae, other, "its weights are in units of each token's own scale")
    if theirs.skip and not mine.skip:
        raise _refusal(sae, other, "it has a skip connection", "skip: true")
    if not isinstance(other.coder, sae.coder.deployed_as):
        found, wanted = type(other.coder).__name__, sae.coder.deployed_as.__name__
        raise _refusal(sae, other, f"its encoder is a {found}, not a {wanted}")


def _reverse(scaling: Scaling) -> Scaling:
    return Scaling(scaling.mean.double(), scaling.factor).inverse()


def _move_centre(sae: SAE) -> None:
    """Subtract `b_dec` from the input where the encoder did not, and the other way round; codes stay."""
    coder = sae.coder
    shift = sae.b_dec if coder.centred else -sae.b_dec
    was, coder.centred = coder.centred, False
    coder.fold(shift, 1.0)
    coder.centred = not was


def _normalise(sae: SAE, fresh: Tensor) -> None:
    """Rows of norm 1, and the same reconstruction; a row of norm 0 becomes its `fresh` one, of a latent at 0."""
    norms = sae.W_dec.norm(dim=1)
    if float((norms - 1).abs().max()) < _UNIT:
        return
    sae.coder.rescale(norms)
    sae.W_dec.copy_(torch.where(norms[:, None] > 0, sae.W_dec / norms[:, None], fresh.to(sae.W_dec)))
