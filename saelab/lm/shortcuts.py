"""Forward passes that compute only what somebody reads.

TransformerLens' bridge computes attention step by step and every norm twice, so that each value on the
way has a hook. A component with a shortcut runs transformers' own forward instead (fused attention, the
same bits as without a bridge) for as long as nobody has hooked a value that only the long way computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge

_PROBE_TOKENS = 12


class _Shortcut:
    """Stands for the forward of one component; `only_long` are the hook points that it does not serve."""

    def __init__(self, component: Any):
        self.component = component
        self.long_way = component.forward
        self.only_long: list[HookPoint] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

        if any(point.fwd_hooks or point.bwd_hooks for point in self.only_long):
            return self.long_way(*args, **kwargs)
        return GeneralizedComponent.forward(self.component, *args, **kwargs)

    def install(self) -> None:
        # Past the component's own __setattr__, which would hand the name on to the module it wraps.
        self.component.__dict__["forward"] = self

    def remove(self) -> None:
        self.component.__dict__.pop("forward", None)


def shorten(bridge: TransformerBridge) -> bool:
    """Give attention and norms their shortcuts, and the model fused attention where it has it.

    What a shortcut serves is not assumed but found, by running a few tokens both ways: a hook point that
    stays silent or carries other values is served by the long way. A model whose logits differ by more
    than rounding, or whose components cannot be called so, is left as it was.

    Returns:
        Whether the model has shortcuts now.
    """
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge
    from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

    model: Any = bridge.original_model
    attention = model.config._attn_implementation
    shortcuts = [
        _Shortcut(part) for part in bridge.modules() if isinstance(part, (AttentionBridge, NormalizationBridge))
    ]
    logits, values = _trace(bridge)
    try:
        model.set_attn_implementation("sdpa")
        for shortcut in shortcuts:
            shortcut.install()
        short_logits, short_values = _trace(bridge)
        if not _close(logits, short_logits):
            raise ValueError("other logits")
    except Exception:  # whatever an architecture objects to: the long way always works
        model.set_attn_implementation(attention)
        for shortcut in shortcuts:
            shortcut.remove()
        return False
    for shortcut in shortcuts:
        inside = [point for point in _points(shortcut.component) if point in values]
        shortcut.only_long = [
            point for point in inside if point not in short_values or not _close(values[point], short_values[point])
        ]
    return True


def _points(module: nn.Module) -> list[HookPoint]:
    from transformer_lens.hook_points import HookPoint

    return [part for part in module.modules() if isinstance(part, HookPoint)]


@torch.no_grad()
def _trace(bridge: TransformerBridge) -> tuple[Tensor, dict[HookPoint, Any]]:
    """Logits of a few tokens, and what each hook point carried."""
    values: dict[HookPoint, Any] = {}

    def keep(point: Any, inputs: Any, value: Any) -> None:
        values[point] = value

    handles = [point.register_forward_hook(keep) for point in _points(bridge)]
    try:
        vocabulary = bridge.original_model.get_input_embeddings().num_embeddings  # type: ignore[union-attr]
        tokens = torch.arange(2 * _PROBE_TOKENS, device=bridge.cfg.device).view(2, -1) * 31 % vocabulary
        return bridge(tokens), values
    finally:
        for handle in handles:
            handle.remove()


def _close(a: Any, b: Any) -> bool:
    """Equal up to rounding in their dtype, relative to the largest entry."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape):
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    tolerance = max(1e-4, 8 * torch.finfo(a.dtype).eps) * float(a.float().abs().max())
    return bool(((a.float() - b.float()).abs() <= tolerance).all())
