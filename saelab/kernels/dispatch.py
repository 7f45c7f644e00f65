"""Which implementation runs: decided by the tensors in hand, never by what is installed."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from saelab.errors import SaelabError, did_you_mean
from saelab.kernels import cpu, dense, reference
from saelab.kernels.support import Support

DENSE_FROM = 1 / 16
"""Density from which matrix products beat sparse kernels on a CPU (crossings measured at 4-17 %)."""

GPU_SPARSE_FROM = 220
"""Latents per entry from which sparse kernels beat matrix products on a GPU. An estimate, for an H100:
what it multiplies in 16 bits while it moves one element of a gathered row. Not measured."""

_FORCED = {"reference": reference, "cpu": cpu, "dense": dense}
_NAMES = (*_FORCED, "triton")


def forced() -> str | None:
    """The implementation that `SAELAB_KERNELS` demands, if any.

    Raises:
        SaelabError: it names none.
    """
    name = os.environ.get("SAELAB_KERNELS", "").strip()
    if not name:
        return None
    if name not in _NAMES:
        raise SaelabError(f"unknown kernels '{name}'", where="SAELAB_KERNELS", fix=did_you_mean(name, _NAMES))
    return name


def explain(tensor: Tensor, support: Support | None = None) -> tuple[ModuleType, str]:
    """The implementation for `tensor` (and the density of `support`), and the reason for it."""
    name = forced()
    if name == "cpu" and tensor.device.type != "cpu":
        raise SaelabError(f"SAELAB_KERNELS=cpu, but the tensors are on {tensor.device}", fix="unset SAELAB_KERNELS")
    if name == "triton":
        return _demanded_triton(tensor), "SAELAB_KERNELS=triton"
    if name:
        return _FORCED[name], f"SAELAB_KERNELS={name}"
    if tensor.device.type == "cuda":
        return _for_cuda(support)
    if support is not None and support.density >= DENSE_FROM:
        return dense, f"density {support.density:.3f} is at least {DENSE_FROM:.3f}"
    if tensor.device.type != "cpu":
        return reference, f"no sparse kernels for {tensor.device.type} yet"
    if tensor.dtype not in (torch.float32, torch.float64):
        return reference, f"the CPU kernels take float32 and float64, not {tensor.dtype}"
    return cpu, "CPU tensors, sparse code"


def choose(tensor: Tensor, support: Support | None = None) -> ModuleType:
    """The implementation alone; see `explain`."""
    return explain(tensor, support)[0]


@cache
def _triton() -> tuple[ModuleType | None, str]:
    """The Triton kernels, or why there are none. Imported when first asked for: triton is no dependency."""
    try:
        return import_module("saelab.kernels.triton"), ""
    except ImportError as error:
        return None, f"triton cannot be imported: {error}"


def _for_cuda(support: Support | None) -> tuple[ModuleType, str]:
    """By the capacity, since counting the entries of ragged rows would wait for the device."""
    if support is not None and support.n_tokens * support.n_latents < GPU_SPARSE_FROM * support.latents.numel():
        return dense, f"fewer than {GPU_SPARSE_FROM} latents per entry"
    kernels, trouble = _triton()
    return (reference, trouble) if kernels is None else (kernels, "CUDA tensors, sparse code")


def _demanded_triton(tensor: Tensor) -> ModuleType:
    kernels, trouble = _triton()
    if kernels is None:
        raise SaelabError(trouble, where="SAELAB_KERNELS=triton", fix="install triton, or unset SAELAB_KERNELS")
    if tensor.device.type != "cuda" and not (tensor.device.type == "cpu" and kernels.INTERPRETED):
        raise SaelabError(
            f"SAELAB_KERNELS=triton, but the tensors are on {tensor.device}",
            fix="unset SAELAB_KERNELS; or set TRITON_INTERPRET=1 to interpret the kernels on CPU tensors, for tests",
        )
    return kernels
