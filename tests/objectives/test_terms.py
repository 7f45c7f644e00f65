"""Loss terms and the objective: written formulas, schedules, controllers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saelab.objectives.terms.base import variance

D, F = 12, 40
DOUBLE = torch.float64


def tokens(n: int = 30) -> Tensor:
    return torch.randn(n, D, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_batch_without_variance_has_a_finite_loss(dtype):
    assert float(variance(torch.zeros(0, D, dtype=dtype))) > 0
    assert float(variance(torch.zeros(5, D, dtype=dtype))) > 0
    same = torch.full((5, D), 3.0, dtype=dtype)
    assert bool(torch.isfinite((same + 1).square().sum() / variance(same)))
    x = tokens().to(dtype)
    assert torch.equal(variance(x), (x - x.mean(0)).square().sum())
