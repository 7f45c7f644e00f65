"""Which implementation runs: decided by the tensors in hand, never by what is installed."""

from __future__ import annotations

import os
from types import ModuleType

import torch
from torch import Tensor

from saelab.errors import SaelabError, did_you_mean
from saelab.kernels import cpu, dense, reference
from saelab.kernels.support import Support

DENSE_FROM = 1 / 16
"""Density from which matrix products beat sparse kernels on a CPU (crossings measured at 4-17 %)."""

IMPLEMENTATIONS: dict[str, ModuleType] = {"reference": reference, "cpu": cpu, "dense": dense}
"""All there are, by the names that `SAELAB_KERNELS` takes."""


def forced() -> str | None:
    """The implementation that `SAELAB_KERNELS` demands, if any.

    Raises:
        SaelabError: it names none.
    """
    name = os.environ.get("SAELAB_KERNELS", "").strip()
    if not name:
        return None
    if name not in IMPLEMENTATIONS:
        raise SaelabError(f"unknown kernels '{name}'", where="SAELAB_KERNELS", fix=did_you_mean(name, IMPLEMENTATIONS))
    return name


def unfit(name: str, tensor: Tensor) -> str | None:
    """Why these kernels cannot take `tensor`; None where they can."""
    if name == "cpu" and tensor.device.type != "cpu":
        return f"the tensors are on {tensor.device}"
    if name == "cpu" and tensor.dtype not in (torch.float32, torch.float64):
        return f"the CPU kernels take float32 and float64, not {tensor.dtype}"
    return None


def explain(tensor: Tensor, support: Support | None = None) -> tuple[ModuleType, str]:
    """The implementation for `tensor` (and the density of `support`), and the reason for it."""
    name = forced()
    if name:
        if reason := unfit(name, tensor):
            raise SaelabError(f"SAELAB_KERNELS={name}, but {reason}", fix="unset SAELAB_KERNELS")
        return IMPLEMENTATIONS[name], f"SAELAB_KERNELS={name}"
    if support is not None and support.density >= DENSE_FROM:
        return dense, f"density {support.density:.3f} is at least {DENSE_FROM:.3f}"
    if tensor.device.type != "cpu":
        return reference, f"no sparse kernels for {tensor.device.type} yet"
    if reason := unfit("cpu", tensor):
        return reference, reason
    return cpu, "CPU tensors, sparse code"


def choose(tensor: Tensor, support: Support | None = None) -> ModuleType:
    """The implementation alone; see `explain`."""
    return explain(tensor, support)[0]


def choose_top_k() -> ModuleType:
    """The implementation of `top_k`, for scores of any device and dtype."""
    return reference if forced() == "reference" else cpu
