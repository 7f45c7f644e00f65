"""Compile every Triton kernel for GPUs of two generations, as for a launch; print their names."""

from __future__ import annotations

import re
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saelab.kernels import Support
from saelab.kernels import triton as kernels

POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
compiled: set[str] = set()


def compile_only(kernel: Any, grid: tuple[int, int], *args: Any, **constants: int) -> None:
    """In place of a launch. As there, the number 1 is compiled in."""
    named = dict(zip(kernel.arg_names, args, strict=False))
    fixed = constants | {name: arg for name, arg in named.items() if not isinstance(arg, Tensor) and arg == 1}
    types = {name: POINTERS[arg.dtype] if isinstance(arg, Tensor) else "i32" for name, arg in named.items()}
    source = ASTSource(kernel, types | dict.fromkeys(fixed, "constexpr"), fixed)
    target = GPUTarget("cuda", 90 if args[0].dtype == torch.bfloat16 else 80, 32)
    binary = triton.compile(source, target, options={"num_warps": 4, "enable_fp_fusion": True})
    assert not re.search(r"\s(atom|red)\.", binary.asm["ptx"]), f"{kernel.__name__} has atomics"
    compiled.add(kernel.__name__)


kernels._launch = compile_only
for index, dtype, d in [
    (torch.int32, torch.float32, 576),
    (torch.int32, torch.bfloat16, 576),
    (torch.int64, torch.float16, 3),
    (torch.int64, torch.float64, 1),
]:
    latents = torch.arange(6, dtype=index)
    support = Support(latents, torch.tensor([0, 4, 6], dtype=index), 6)
    values, weight, rows = (torch.zeros(shape, dtype=dtype) for shape in [(6,), (6, d), (2, d)])
    kernels.gather(values, support, weight)
    kernels.sampled_dot(rows, weight, support)
    kernels.transposed_scatter(values, support, rows)
print(*sorted(compiled))  # noqa: T201
