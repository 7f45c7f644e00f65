"""Train one variant on one planted world, with fresh tokens at every step, and measure what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from saelab.activations.loader import Batch
from saelab.sae import SAE, Scaling, build
from saelab.testing import recovery
from saelab.testing.planted import Sample, World, stream
from saelab.training import Member, TrainSpec

_FIRST_TOKENS = 16_384
"""Training tokens that scaling, the first bias and the thresholds come from."""


class Source(Protocol):
    """What can be trained on: a world, or anything else that draws tokens."""

    def sample(self, n_tokens: int, generator: torch.Generator) -> Sample: ...


def fit(
    world: Source,
    kind: str,
    settings: Mapping[str, Any],
    spec: TrainSpec,
    *,
    steps: int | None = None,
) -> SAE:
    """Build and train a variant on a world as the trainer would -> its inference form.

    Inputs are centred and scaled as `spec` says, thresholds are calibrated on training tokens, and the
    scaling is folded in: the result reads the world's own units. The decoder's bias starts at 0: worlds
    have no offset to be learned.

    Args:
        settings: of the variant.
        spec: how it is trained; `spec.seed` draws weights and tokens.
        steps: how many of `spec.steps` to take (None: all); 0 gives the untrained SAE.
    """
    generator = stream(spec.seed, "tokens")
    x = world.sample(_FIRST_TOKENS, generator).x
    scaling = _scaling(x, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(spec.seed, "weights").initial_seed())
        blueprint = build(kind, x.shape[1], settings)
        member = Member(kind, blueprint, spec, precision="exact", device=x.device)
        for step in range(spec.steps if steps is None else steps):
            member.step(_batch(world.sample(spec.batch_tokens, generator), scaling), step)
        member.sae.calibrate(scaling.apply(x))
        return member.sae.inference(scaling)


def heldout(world: World, n_tokens: int, seed: int) -> Sample:
    """Tokens that no SAE trained with this seed has seen."""
    return world.sample(n_tokens, stream(seed, "heldout"))


@torch.no_grad()
def measure(world: World, sae: SAE, sample: Sample) -> dict[str, float]:
    """What an SAE in inference form found of a world, on `sample`.

    Returns: `l0`, `fvu`, `mcc`, `recovered` (fraction of features with a cosine above 0.9), `support_f1`,
    `dead` (fraction of latents), and what the world itself measures.
    """
    code = sae.encode(sample.x)
    return measure_codes(world, sae.W_dec, code.to_dense(), sae.reconstruct(sample.x, code), sample)


def measure_codes(world: World, learned: Tensor, codes: Tensor, recon: Tensor, sample: Sample) -> dict[str, float]:
    """`measure` of any dictionary `[F, d]` with its codes `[tok, F]` and reconstructions `[tok, d]`.

    Directions are compared up to sign where the world's or the dictionary's codes have signs.
    """
    signed = world.signed or bool((codes < 0).any())
    similarity = recovery.cosines(learned, world.features, signed=signed)
    pairs = recovery.match(similarity)
    deviation = sample.x - sample.x.mean(0)
    return {
        "l0": (codes != 0).sum(1).double().mean().item(),
        "fvu": ((sample.x - recon).square().sum() / deviation.square().sum()).item(),
        "mcc": pairs.similarity.mean().item(),
        "recovered": recovery.recovery_rate(learned, world.features, signed=signed),
        "support_f1": recovery.support_f1(codes, sample.codes, pairs),
        "dead": recovery.dead_frac(codes),
        **world.own_metrics(sample, learned, codes, recon),
    }


def _scaling(x: Tensor, spec: TrainSpec) -> Scaling:
    mean = x.mean(0) if spec.centre else torch.zeros_like(x[0])
    factor = math.sqrt(x.shape[1]) / (x - mean).norm(dim=1).mean().item() if spec.scale else 1.0
    return Scaling(mean, factor)


def _batch(sample: Sample, scaling: Scaling) -> Batch:
    x = scaling.apply(sample.x)
    return Batch(x, x, {} if sample.loss_grad is None else {"loss_grad": sample.loss_grad / scaling.factor})
