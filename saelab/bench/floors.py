"""What a training step cannot do without, measured beside it: a product, a selection, an optimiser pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saelab.bench.workload import Workload


def products(work: Workload, device: torch.device) -> dict[str, Callable[[], object]]:
    """The encoder's product `[tok, d] x [d, lat]` in each precision that the device multiplies, and the k largest
    of each row of its result. Outputs are there already: fresh pages would cost as much as the product."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(work.batch_tokens, work.d_model, generator=generator).to(device)
    weight = torch.randn(work.n_latents, work.d_model, generator=generator).to(device)
    size = (work.batch_tokens, work.n_latents)
    room = torch.empty(4 * size[0] * size[1], dtype=torch.uint8, device=device)
    scores = torch.randn(size, device=device)
    best = scores[:, : work.k].clone(), torch.empty(size[0], work.k, dtype=torch.int64, device=device)

    def product(dtype: torch.dtype) -> Callable[[], object]:
        out = room[: size[0] * size[1] * dtype.itemsize].view(dtype).view(size)
        left, right = x.to(dtype), weight.to(dtype)
        return lambda: torch.mm(left, right.T, out=out)

    found = {f"encoder_gemm_{_name(dtype)}": product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    if device.type == "cpu":
        found["encoder_gemm_int8"] = integer_product(x, weight, room.view(torch.int32).view(size))
    found["top_k"] = lambda: torch.topk(scores, work.k, dim=1, sorted=False, out=best)
    return found


def integer_product(x: Tensor, weight: Tensor, out: Tensor) -> Callable[[], object]:
    """The product of both, times 32 and rounded to 8 bits, in `out` `[tok, lat]` int32."""
    left, right = ((32 * block).round().clamp(-127, 127).to(torch.int8) for block in (x, weight))
    return lambda: torch.ops.aten._int_mm.out(left, right.T, out=out)


def optimiser_pass(shapes: Sequence[torch.Size], device: torch.device) -> Callable[[], object]:
    """Fused Adam over parameters of these shapes: every parameter, gradient and moment read, all but gradients
    written."""
    parameters = [torch.nn.Parameter(torch.full(shape, 0.01, device=device)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.01)
    return torch.optim.Adam(parameters, lr=1e-6, fused=True).step


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
