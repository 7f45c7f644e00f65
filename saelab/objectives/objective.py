"""An objective: loss terms with their weights, warm-ups and L0 controllers, summed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from saelab.errors import SettingError
from saelab.objectives.terms import TERMS, Pass, Term
from saelab.sae.coders import Coder
from saelab.sae.variants import LossTerm

_CONTROL_RATE = 0.02
"""Largest change of a controlled weight's logarithm per step."""
_CONTROL_GAIN = 3.0
"""Relative errors of L0 above a third move a weight at full speed, smaller ones in proportion."""
_CONTROL_HORIZON_STEPS = 50
"""How far ahead a controller looks along the present trend of L0."""
_TREND_RATE = 0.1
_LARGEST_LOG_GAIN = 12.0
_SMALLEST_L0 = 0.01
_UNKNOWN = -1e9


def ramp(term: LossTerm, progress: float) -> float:
    """The share of a term's weight after the fraction `progress` of training."""
    return min(1.0, progress / term.warmup_frac) if term.warmup_frac > 0 else 1.0


def _check_target(loss: LossTerm) -> None:
    """Raise where a controller has no aim, no time or nothing to steer."""
    if loss.target_l0 is None:
        return
    if loss.target_l0 <= 0:
        raise SettingError("target_l0", f"must be positive, found {loss.target_l0}")
    if loss.coefficient == 0 or loss.warmup_frac >= 1:
        why = "its weight is 0" if loss.coefficient == 0 else "its warm-up lasts all of training"
        raise SettingError("target_l0", f"cannot steer the penalty '{loss.kind}': {why}", fix="target_l0: null")


class Objective(nn.Module):
    """The weighted sum of a variant's loss terms.

    A term with a `target_l0` has a controller: its weight rises while L0, on its present trend, will be above
    the target some steps ahead, and falls while it will be below. (Without the trend a penalty that acts
    slowly is raised far too long, and latents die of it.) Controllers and what terms remember are buffers,
    so that a resumed run goes on as it was.

    Raises:
        SettingError: a term asks for a channel that the coder does not provide.
    """

    log_gain: Tensor
    log_l0: Tensor
    trend: Tensor

    def __init__(self, losses: Sequence[LossTerm], coder: Coder):
        super().__init__()
        self.losses = tuple(losses)
        self.terms: Sequence[Term] = nn.ModuleList(TERMS[loss.kind](**loss.settings) for loss in losses)  # type: ignore[assignment]
        for loss, term in zip(self.losses, self.terms, strict=True):
            missing = sorted(term.requires - coder.provides)
            if missing:
                raise SettingError(
                    "kind",
                    f"the loss term '{loss.kind}' needs {', '.join(missing)}, which {type(coder).__name__} does not "
                    f"provide ({', '.join(sorted(coder.provides)) or 'it provides nothing beside the code'})",
                )
            _check_target(loss)
        kinds = [loss.kind for loss in losses]
        self.names = [
            f"{kind}_{kinds[:i].count(kind) + 1}" if kind in kinds[:i] else kind for i, kind in enumerate(kinds)
        ]
        self.register_buffer("log_gain", torch.zeros(len(kinds)))
        self.register_buffer("log_l0", torch.full((), _UNKNOWN))
        self.register_buffer("trend", torch.zeros(()))

    def forward(self, p: Pass) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term's unweighted value by name (a second one of a kind gets a number)."""
        values = [term(p) for term in self.terms]
        weights = [loss.coefficient * ramp(loss, p.progress) for loss in self.losses]
        gains = self.log_gain.exp().unbind()
        parts = [
            w * value if loss.target_l0 is None else w * gain * value
            for loss, w, gain, value in zip(self.losses, weights, gains, values, strict=True)
        ]
        if torch.is_grad_enabled():
            self._control(p)
        return torch.stack(parts).sum(), {n: v.detach() for n, v in zip(self.names, values, strict=True)}

    @torch.no_grad()
    def _control(self, p: Pass) -> None:
        if all(loss.target_l0 is None for loss in self.losses):
            return
        log_l0 = (p.code.active.sum() / p.n_tokens).clamp_min(_SMALLEST_L0).log()
        change = torch.where(self.log_l0 == _UNKNOWN, 0.0, log_l0 - self.log_l0)
        self.log_l0.copy_(log_l0)
        self.trend.lerp_(change, _TREND_RATE)
        ahead = log_l0 + _CONTROL_HORIZON_STEPS * self.trend
        for i, loss in enumerate(self.losses):
            if loss.target_l0 is not None and p.progress >= loss.warmup_frac:
                error = (_CONTROL_GAIN * (ahead - math.log(loss.target_l0))).clamp(-1, 1)
                self.log_gain[i] += _CONTROL_RATE * error
        self.log_gain.clamp_(-_LARGEST_LOG_GAIN, _LARGEST_LOG_GAIN)
