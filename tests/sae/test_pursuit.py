"""Compiled matching pursuit against the plain one: picks, amounts and gradients."""

from __future__ import annotations

import pytest
import torch

from saelab.sae.code import Seen
from saelab.sae.coders.pursuit import Pursuit


@pytest.mark.parametrize("selection", ["positive", "absolute"])
@pytest.mark.parametrize("threshold", [0.0, 2.5])
@pytest.mark.parametrize("length", [1.0, 0.9, 1.1])
@pytest.mark.parametrize("ends_at_repeat", [False, True])
def test_compiled_and_plain_pursuits_are_one(monkeypatch, selection, threshold, length, ends_at_repeat):
    torch.manual_seed(0)
    x = torch.randn(50, 12, dtype=torch.float64, requires_grad=True)
    rows = length * torch.nn.functional.normalize(torch.randn(40, 12, dtype=torch.float64), dim=1)
    rows.requires_grad_()
    coder = Pursuit(40, 9, selection=selection, residual_threshold=threshold, ends_at_repeat=ends_at_repeat)
    found = []
    for kernels in ("cpu", "builtin"):
        monkeypatch.setenv("SAELAB_KERNELS", kernels)
        code = coder.encode(Seen(x, rows)).code
        weights = torch.linspace(-1, 1, 50 * 40, dtype=torch.float64).view(50, 40)
        gradients = torch.autograd.grad((code.to_dense() * weights).sum(), (x, rows))
        found.append((code.l0(), code.to_dense(), *gradients))
    assert found[1][0].max() > 2
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-10, rtol=1e-10)
