"""Identities in float64: what one variant is in the limit of another, and what matching pursuit conserves."""

from __future__ import annotations

import torch
from torch import Tensor

from saelab.sae.coders import pursuit

D, F, TOKENS = 12, 40, 30
DOUBLE = torch.float64


def assert_close(found: Tensor, wanted: Tensor, name: str = "", tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")


def test_pursuit_has_the_same_gradient_every_time_with_several_threads():
    """The backward of plain indexing adds in the order in which threads arrive."""
    x, rows = torch.randn(2048, 64), torch.nn.functional.normalize(torch.randn(64, 64), dim=1).requires_grad_()
    picked, used = pursuit.pursue(x, rows, 8, selection="positive")
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = [
            torch.autograd.grad(pursuit.solve(x, rows, picked, used).square().sum(), rows)[0] for _ in range(8)
        ]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
