"""Which implementation runs: decided by the tensors in hand, never by what is installed alone."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saelab.errors import SaelabError, did_you_mean
from saelab.kernels import builtin, dense, reference
from saelab.kernels.support import Support

if TYPE_CHECKING:
    from saelab.kernels.products import Affine

DENSE_FROM = 1 / 16
"""Density from which matrix products beat sparse kernels on a CPU (crossings measured at 4-17 %)."""

_NAMES = ("reference", "cpu", "builtin", "dense")


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


@cache
def compiled() -> ModuleType | None:
    """The compiled CPU kernels, where numba is installed."""
    if find_spec("numba") is None:
        return None
    from saelab.kernels.jit import primitives

    return primitives


def _named(name: str, tensor: Tensor) -> ModuleType:
    if name == "cpu":
        if tensor.device.type != "cpu":
            raise SaelabError(f"SAELAB_KERNELS=cpu, but the tensors are on {tensor.device}", fix="unset SAELAB_KERNELS")
        found = compiled()
        if found is None:
            raise SaelabError("SAELAB_KERNELS=cpu needs numba, which is not installed", fix="pip install numba")
        return found
    return {"reference": reference, "builtin": builtin, "dense": dense}[name]


def explain(tensor: Tensor, support: Support | None = None) -> tuple[ModuleType, str]:
    """The implementation for `tensor` (and the density of `support`), and the reason for it."""
    name = forced()
    if name:
        return _named(name, tensor), f"SAELAB_KERNELS={name}"
    if support is not None and support.density >= DENSE_FROM:
        return dense, f"density {support.density:.3f} is at least {DENSE_FROM:.3f}"
    if tensor.device.type != "cpu":
        return reference, f"no sparse kernels for {tensor.device.type} yet"
    if tensor.dtype not in (torch.float32, torch.float64):
        return reference, f"the CPU kernels take float32 and float64, not {tensor.dtype}"
    found = compiled()
    return (found, "CPU tensors, sparse code") if found else (builtin, "CPU tensors; numba is not installed")


def choose(tensor: Tensor, support: Support | None = None) -> ModuleType:
    """The implementation alone; see `explain`."""
    return explain(tensor, support)[0]


def takes_compiled(tensor: Tensor) -> bool:
    """Whether compiled CPU kernels, where they are asked for without a support, may work on it."""
    fits = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)
    return fits and forced() in (None, "cpu", "dense") and compiled() is not None


def selection(tensor: Tensor) -> ModuleType:
    """The functions that pick entries from tiles of scores like `tensor`."""
    if takes_compiled(tensor):
        from saelab.kernels.jit import selection as found
    else:
        from saelab.kernels import selection as found
    return found


def by_key(keys: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
    """A stable sort of `[n]` keys below `n_keys`: the order `[n]` int64, and `[n_keys + 1]` int64 bounds."""
    found = compiled() if keys.device.type == "cpu" and forced() in (None, "cpu", "dense") else None
    return (found or builtin).by_key(keys, n_keys)


def cpu_capabilities() -> dict[str, Any]:
    """What torch knows of this processor; empty where this torch does not say."""
    return getattr(torch.cpu, "get_capabilities", dict)()


_INT8_DOTS = ("amx_int8", "avx512_vnni", "avx_vnni")


def screening(tensor: Tensor) -> type[Affine]:
    """In what the scores of rows like `tensor` are screened."""
    from saelab.kernels.products import InBFloat16, InInt8

    known = any(cpu_capabilities().get(name, False) for name in _INT8_DOTS)
    return InInt8 if known and takes_compiled(tensor) else InBFloat16


def screening_pays(device: torch.device) -> bool:
    """Whether screened products are faster than exact ones there: on GPUs, and on CPUs that multiply int8 natively
    (bfloat16 alone runs no faster than float32 on a CPU without matrix tiles)."""
    if device.type == "cpu":
        from saelab.kernels.products import InInt8

        return screening(torch.empty(0)) is InInt8 or bool(cpu_capabilities().get("amx_bf16", False))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
