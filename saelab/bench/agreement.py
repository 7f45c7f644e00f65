"""A few training steps with the kernels that a case would be timed with, beside the same steps with the reference
kernels and exact selection: a speed is worth nothing where they differ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saelab.activations.loader import Batch
from saelab.bench.workload import Case, seeded
from saelab.sae import SAE
from saelab.testing.conformance.learning import forced
from saelab.training import Member, TrainSpec

STEPS = 3
_LEAST_TOKENS = 256
_SPEC_STEPS = 4
"""Length of the training that the steps begin: by the third, penalties have risen, phases changed, latents died."""

LEAST_RECALL = 0.9999
"""Active entries of the reference that must be found; as many others may be there besides."""
_ROUNDING = {"exact": 1e-4, "screened": 1e-3}
"""Relative difference of gradients that is noise (found: 1e-6 at most). In a screening, the auxiliary loss may
choose another dead latent where two are nearly equal."""
_ADAM = 100.0
"""Weights may differ this much more: Adam divides small gradients by themselves (found: 2e-3 at most)."""
_LOSS_ROUNDING = 1e-5
_PER_MISMATCH = 3.0
"""Of N entries, one that differs changes a gradient by about its root share, `sqrt(2 / N)`."""


@dataclass(frozen=True)
class Agreement:
    """How far the steps are from the reference.

    Attributes:
        tokens: of a step; steps: compared.
        recall: share of the reference's active entries that are active; extra: others, as a share of those.
        loss, gradients, weights: the largest relative difference of a total loss, of a parameter's gradients
            (their running mean, which the optimiser keeps) and of a parameter's way from the start.
        refused: what is too far; None where the case may be timed.
    """

    tokens: int
    steps: int
    recall: float
    extra: float
    loss: float
    gradients: float
    weights: float
    refused: str | None = None

    def document(self) -> dict[str, Any]:
        """JSON-able; None for an infinite difference."""
        return {key: None if value == math.inf else value for key, value in vars(self).items()}


@dataclass(frozen=True, eq=False)
class _Trace:
    """What steps leave behind: losses, active entries before each, and the member's tensors at start and end."""

    losses: list[float]
    entries: list[Tensor]
    start: dict[str, Tensor]
    end: dict[str, Tensor]


def compare(case: Case) -> Agreement:
    """Both trainings begin with the same weights, see the same batches and draw the same noise.

    Batches are smaller than those timed where that leaves about one entry for every latent; width, sparsity, and
    with them the choice of kernels, are the same.
    """
    work = case.work
    enough = max(_LEAST_TOKENS, math.ceil(work.n_latents / min(work.k, work.active)))
    tokens = min(work.batch_tokens, enough)
    spec = TrainSpec(tokens=_SPEC_STEPS * tokens, batch_tokens=tokens, dead_after_tokens=tokens)
    member = case.member(spec)
    start = {name: value.detach().clone() for name, value in member.tensors().items()}
    batches = [case.batch(member.sae, number, tokens) for number in range(STEPS)]
    found = _follow(case, member, batches)
    with forced("reference"):
        truth = replace(case, precision="exact").member(spec)
        truth.load_tensors(start)
        wanted = _follow(case, truth, batches)
    return _judge(found, wanted, case, tokens)


def _follow(case: Case, member: Member, batches: list[Batch]) -> _Trace:
    trace = _Trace([], [], {name: value.detach().clone() for name, value in member.tensors().items()}, {})
    for number, batch in enumerate(batches):
        with seeded(number, case.device), torch.no_grad():
            trace.entries.append(_active(member.sae, batch))
        with seeded(number, case.device):
            trace.losses.append(float(member.step(batch, number)["losses/total"]))
    trace.end.update(member.tensors())
    return trace


def _active(sae: SAE, batch: Batch) -> Tensor:
    """`[active entries]` int64: `token * n_latents + latent` of each."""
    code = sae.encode(batch.input, batch.side)
    return (code.support.rows * code.n_latents + code.latents[: code.support.nnz].long())[code.active]


def _judge(found: _Trace, wanted: _Trace, case: Case, tokens: int) -> Agreement:
    pairs = list(zip(found.entries, wanted.entries, strict=True))
    there = max(sum(len(truth) for _, truth in pairs), 1)
    recall = 1 - sum(int((~torch.isin(truth, own)).sum()) for own, truth in pairs) / there
    extra = sum(int((~torch.isin(own, truth)).sum()) for own, truth in pairs) / there
    loss = max(_relative(a, b) for a, b in zip(found.losses, wanted.losses, strict=True))
    learned = [name.removesuffix(".exp_avg") for name in wanted.end if name.endswith(".exp_avg")]
    gradients = {name: _apart(found, wanted, f"{name}.exp_avg") for name in learned}
    weights = {name: _apart(found, wanted, name.replace("adam.", "sae.", 1)) for name in learned}
    mismatch = max(1 - recall, extra)
    noise = _ROUNDING[case.precision] + _PER_MISMATCH * math.sqrt(2 * mismatch)
    refused = [
        _sentence("active entries", mismatch, 1 - LEAST_RECALL),
        _sentence("the loss", loss, _LOSS_ROUNDING + mismatch),
        *(_sentence(f"the gradient of {name[5:]}", apart, noise) for name, apart in gradients.items()),
        *(_sentence(f"{name[5:]} after them", apart, _ADAM * noise) for name, apart in weights.items()),
    ]
    largest = max(gradients.values(), default=0.0), max(weights.values(), default=0.0)
    why = next((sentence for sentence in refused if sentence), None)
    return Agreement(tokens, STEPS, recall, extra, loss, *largest, why)


def _sentence(what: str, apart: float, allowed: float) -> str | None:
    if apart <= allowed:
        return None
    return f"differs from the reference within {STEPS} steps: {what} by {apart:.2g}, and {allowed:.2g} is noise"


def _relative(found: float, wanted: float) -> float:
    return _over(abs(found - wanted), abs(wanted))


def _apart(found: _Trace, wanted: _Trace, name: str) -> float:
    """The distance of a tensor from the reference's, over the way that the reference has gone from the start."""
    begin = wanted.start.get(name, torch.zeros(())).to(wanted.end[name]).double()
    way = float((wanted.end[name].double() - begin).norm())
    return _over(float((found.end[name].double() - wanted.end[name].double()).norm()), way)


def _over(distance: float, way: float) -> float:
    """Their ratio; infinite for what is not a number."""
    if distance == 0:
        return 0.0
    ratio = distance / max(way, 1e-30)
    return ratio if math.isfinite(ratio) else math.inf
