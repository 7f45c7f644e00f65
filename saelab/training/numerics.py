"""What decides the last bits of a run beside its config: a resumed run says where it has changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saelab.kernels import dispatch


def numerics(weights: Tensor) -> dict[str, Any]:
    """The circumstances under which a step on these weights gives the same bits again, JSON-able."""
    return {
        "device": weights.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": dispatch.forced() or ("compiled" if dispatch.takes_compiled(weights) else "torch's"),
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What differs, in words; None where nothing does."""
    found = [f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
    return ", ".join(found) or None
