"""Which implementation runs: decided by the tensors in hand, never by what is installed alone."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saelab.errors import SaelabError, did_you_mean
from saelab.kernels import builtin, reference
from saelab.kernels.support import Support
from saelab.machine import cpu_capabilities

if TYPE_CHECKING:
    from saelab.kernels.products import Affine

DENSE_FROM = 1 / 16
"""Density from which matrix products beat sparse kernels on a CPU (crossings measured at 4-17 %)."""

GPU_SPARSE_FROM = 220
"""Latents per entry from which sparse kernels beat matrix products on a GPU. An estimate, for an H100:
what it multiplies in 16 bits while it moves one element of a gathered row. Not measured."""

IMPLEMENTATIONS = {
    "reference": "saelab.kernels.reference",
    "cpu": "saelab.kernels.jit.primitives",
    "builtin": "saelab.kernels.builtin",
    "dense": "saelab.kernels.dense",
    "triton": "saelab.kernels.triton",
}
"""Modules by the names that `SAELAB_KERNELS` takes: the plain truth; compiled for CPUs; torch's fastest operations,
for CPUs without numba; matrix products; CUDA. Imported when first asked for: numba and triton may be missing."""


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


@cache
def _imported(name: str) -> ModuleType | str:
    """The module, or why there is none."""
    try:
        return import_module(IMPLEMENTATIONS[name])
    except ImportError as error:
        return f"{error.name or name} cannot be imported: {error}"


def implementation(name: str) -> ModuleType:
    """The module of that name, for tensors that it is not `unfit` for."""
    found = _imported(name)
    if isinstance(found, str):
        raise SaelabError(found, where=f"kernels '{name}'")
    return found


def unfit(name: str, tensor: Tensor) -> str | None:
    """Why these kernels cannot take `tensor`; None where they can."""
    found, device = _imported(name), tensor.device.type
    if isinstance(found, str):
        return found
    if name in ("cpu", "builtin") and device != "cpu":
        return f"the tensors are on {tensor.device}"
    if name in ("cpu", "builtin") and tensor.dtype not in (torch.float32, torch.float64):
        return f"the CPU kernels take float32 and float64, not {tensor.dtype}"
    if name == "triton" and device != "cuda" and not (device == "cpu" and found.INTERPRETED):
        return (
            f"the tensors are on {tensor.device} (TRITON_INTERPRET=1 interprets the kernels on CPU tensors, for tests)"
        )
    return None


def decide(tensor: Tensor, support: Support | None = None) -> tuple[str, str]:
    """The name of the implementation for `tensor` (and the density of `support`), and the reason for it.

    Raises:
        SaelabError: `SAELAB_KERNELS` demands one that cannot take it.
    """
    if name := forced():
        if trouble := unfit(name, tensor):
            raise SaelabError(f"SAELAB_KERNELS={name}, but {trouble}", fix="unset SAELAB_KERNELS")
        return name, f"SAELAB_KERNELS={name}"
    kind = tensor.device.type
    if kind not in ("cpu", "cuda"):
        return "reference", f"no sparse kernels for {kind}"
    if support is not None and (why := _dense_enough(support, kind)):
        return "dense", why
    best, next_best = ("cpu", "builtin") if kind == "cpu" else ("triton", "reference")
    trouble = unfit(best, tensor)
    if trouble is None:
        return best, f"{'CPU' if kind == 'cpu' else 'CUDA'} tensors, sparse code"
    return (next_best if unfit(next_best, tensor) is None else "reference"), trouble


def _dense_enough(support: Support, kind: str) -> str | None:
    """Why matrix products are faster, if they are."""
    if kind == "cpu":
        fits = support.density >= DENSE_FROM
        return f"density {support.density:.3f} is at least {DENSE_FROM:.3f}" if fits else None
    # by the capacity, since counting the entries of ragged rows would wait for the device
    fits = support.n_tokens * support.n_latents < GPU_SPARSE_FROM * support.latents.numel()
    return f"fewer than {GPU_SPARSE_FROM} latents per entry" if fits else None


def choose(tensor: Tensor, support: Support | None = None) -> ModuleType:
    """The implementation that `decide` names."""
    return implementation(decide(tensor, support)[0])


def choose_top_k() -> ModuleType:
    """The implementation of `top_k`, for scores of any device and dtype."""
    return reference if forced() == "reference" else builtin


def takes_compiled(tensor: Tensor) -> bool:
    """Whether what exists compiled or in torch (selection, optimiser, pursuit) is to be compiled for such a tensor."""
    return forced() in (None, "cpu", "dense") and unfit("cpu", tensor) is None


def selection(tensor: Tensor) -> ModuleType:
    """The functions that pick entries from tiles of scores like `tensor`."""
    return import_module("saelab.kernels.jit.selection" if takes_compiled(tensor) else "saelab.kernels.selection")


def by_key(keys: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
    """A stable sort of `[n]` keys below `n_keys`: the order `[n]` int64, and `[n_keys + 1]` int64 bounds."""
    compiled = takes_compiled(torch.empty(0, device=keys.device))
    return (implementation("cpu") if compiled else builtin).by_key(keys, n_keys)


_INT8_DOTS = ("avx512_vnni", "avx_vnni")


def screening(tensor: Tensor) -> type[Affine]:
    """In what the scores of rows like `tensor` are screened.

    With matrix tiles torch's bfloat16 product takes half the time of its int8 product, which does not use them.
    """
    from saelab.kernels.products import InBFloat16, InInt8

    native = any(cpu_capabilities().get(name, False) for name in _INT8_DOTS)
    return InInt8 if native and not _bfloat16_tiles() and takes_compiled(tensor) else InBFloat16


def screening_pays(device: torch.device) -> bool:
    """Whether screened products are faster than exact ones there: on GPUs, and on CPUs that multiply int8 or bfloat16
    natively (bfloat16 runs no faster than float32 on a CPU without matrix tiles)."""
    if device.type == "cpu":
        from saelab.kernels.products import InInt8

        return screening(torch.empty(0)) is InInt8 or _bfloat16_tiles()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _bfloat16_tiles() -> bool:
    return bool(cpu_capabilities().get("amx_bf16", False))
