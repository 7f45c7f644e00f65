"""The encoder's matrix product alone, in three precisions: no step that looks at every latent can be faster."""

from __future__ import annotations

import torch
from torch import Tensor

from saelab.activations.loader import Batch

from .contest import Recipe, Start


class Product:
    """`[tok, d] x [d, lat]` into memory that is there already; rounding the operands is not counted.

    Args:
        dtype: float32, bfloat16, or int8 (accumulated in int32).
    """

    def __init__(self, recipe: Recipe, start: Start, *, dtype: torch.dtype):
        def rounded(values: Tensor) -> Tensor:
            return (values * (127 / values.abs().max())).to(dtype) if dtype == torch.int8 else values.to(dtype)

        self.x, self.weight = rounded(torch.randn(recipe.batch_tokens, recipe.d_model)), rounded(start.rows).T
        wide = torch.int32 if dtype == torch.int8 else dtype
        self.out = torch.empty(recipe.batch_tokens, recipe.n_latents, dtype=wide)
        self.multiply = torch._int_mm if dtype == torch.int8 else torch.mm  # pyright: ignore[reportPrivateImportUsage]

    def step(self, batch: Batch) -> None:
        self.multiply(self.x, self.weight, out=self.out)


PRODUCTS = {"fp32 GEMM": torch.float32, "bf16 GEMM": torch.bfloat16, "int8 GEMM": torch.int8}
