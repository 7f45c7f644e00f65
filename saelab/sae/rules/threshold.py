"""Rules that compare each pre-activation with a threshold: chunk-local, and the inference form of others."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Function

from saelab.errors import SettingError
from saelab.kernels import Above, Support, spread
from saelab.sae.code import Seen
from saelab.sae.rules.base import SelectionRule, Step


class ReLU(SelectionRule):
    """Every positive pre-activation. The prox of a non-negative L1 penalty (the shift is in `b_enc`)."""

    def budget(self, seen: Seen, n_latents: int) -> Above:
        return Above(seen.x.new_zeros(()))

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.relu(values)


class Threshold(SelectionRule):
    """`u 1[u > theta]` with fixed thresholds, one or one per latent: what batch rules and JumpReLU become.

    Attributes:
        threshold: `[]` or `[lat]`, at least 0, in units of the pre-activations.
    """

    threshold: Tensor

    def __init__(self, threshold: Tensor):
        super().__init__()
        self.register_buffer("threshold", threshold.detach().clone())

    def budget(self, seen: Seen, n_latents: int) -> Above:
        return Above(self.threshold)

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.where(values > self._at(support), values, 0.0)

    def _at(self, support: Support) -> Tensor:
        return self.threshold if self.threshold.ndim == 0 else spread(self.threshold, support)

    def fold(self, factor: float) -> None:
        self.threshold.div_(factor)

    def rescale(self, factor: Tensor) -> None:
        self.threshold = self.threshold * factor  # one for all becomes one for each


Reach = Literal["threshold", "all"]


class JumpReLU(SelectionRule):
    """`u 1[u > theta_i]` with a learned threshold per latent, at least 0.

    Derivatives of the jump are estimated by a rectangle of width `bandwidth` around it (straight-through):
    with `K = 1[|u - theta| < bandwidth / 2] / bandwidth`,

        dz/du = 1[u > theta] (+ theta K where `reach` is "all"),   dz/dtheta = -theta K.

    Channels: `step` `[entries]`, the `1[u > theta]` whose derivative for theta is `-K` (and K for u where it
    reaches "all"); `threshold` `[lat]`. The support holds the window below the threshold, too.

    Source: Rajamanoharan et al. 2024 (arXiv 2407.14435); `reach: all` is Anthropic's
    January 2025 update, read as SAELens reads it; its page can also be read as `dz/du` without the window.
    Deviation: the parameter is theta over `unit`, not its logarithm, which Adam moves too slowly; it is
    clamped at 0 after each step. The estimate looks at `u`, not at the jumped `z`.

    Args:
        initial: thresholds at the start; bandwidth: of the window; both in units of the pre-activations.
        unit: what Adam's steps are measured in: the norm of an input, sqrt(d), so that thresholds keep pace
            with encoder rows (a step of 1 in theta itself is much shorter than one in a row of W_enc).

    Attributes:
        relative: `[lat]`, theta over `unit`.
    """

    provides = frozenset({"step", "threshold"})

    def __init__(self, initial: float, bandwidth: float, reach: Reach = "threshold", *, unit: float = 1.0):
        super().__init__()
        if initial < 0:
            raise SettingError("threshold", f"must not be negative, found {initial}")
        if bandwidth <= 0:
            raise SettingError("bandwidth", f"must be positive, found {bandwidth}")
        if reach not in get_args(Reach):
            raise SettingError("reach", f"reach is 'threshold' or 'all', not '{reach}'")
        self.initial, self.bandwidth, self.reach, self.unit = initial, bandwidth, reach, unit

    def prepare(self, n_latents: int) -> None:
        self.relative = nn.Parameter(torch.full((n_latents,), self.initial / self.unit))

    @property
    def threshold(self) -> Tensor:
        """`[lat]`, at least 0, in units of the pre-activations."""
        return self.relative * self.unit

    def budget(self, seen: Seen, n_latents: int) -> Above:
        return Above(self.threshold.detach() - (self.bandwidth / 2 if self.training else 0.0))

    def activate(self, values: Tensor, support: Support) -> Tensor:
        threshold = spread(self.threshold, support)
        return _Jump.apply(values, threshold, self.bandwidth, self.reach == "all")  # type: ignore[no-any-return]

    def channels(self, values: Tensor, support: Support) -> dict[str, Tensor]:
        step = _Step.apply(values, spread(self.threshold, support), self.bandwidth, self.reach == "all")
        return {"step": step, "threshold": self.threshold}  # type: ignore[dict-item]

    def adopt(self, other: SelectionRule) -> None:
        if isinstance(other, Threshold):
            self.relative.copy_(other.threshold / self.unit)

    def rescale(self, factor: Tensor) -> None:
        self.relative.mul_(factor)

    @torch.no_grad()
    def adapt(self, step: Step) -> None:
        self.relative.clamp_(min=0.0)

    def inference(self) -> Threshold:
        return Threshold(self.threshold)


# pyright: reportIncompatibleMethodOverride=false
class _Jump(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: Tensor, bandwidth: float, reaches_values: bool) -> Tensor:
        ctx.save_for_backward(values, threshold)
        ctx.bandwidth, ctx.reaches_values = bandwidth, reaches_values
        return torch.where(values > threshold, values, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        values, threshold = ctx.saved_tensors
        jump = grad * threshold * _window(values, threshold, ctx.bandwidth)
        direct = grad * (values > threshold)
        return direct + jump if ctx.reaches_values else direct, -jump, None, None


class _Step(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: Tensor, bandwidth: float, reaches_values: bool) -> Tensor:
        ctx.save_for_backward(values, threshold)
        ctx.bandwidth, ctx.reaches_values = bandwidth, reaches_values
        return (values > threshold).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        values, threshold = ctx.saved_tensors
        jump = grad * _window(values, threshold, ctx.bandwidth)
        return jump if ctx.reaches_values else None, -jump, None, None


def _window(values: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """The rectangle of area 1 around each threshold."""
    return ((values - threshold).abs() < bandwidth / 2).to(values.dtype) / bandwidth
