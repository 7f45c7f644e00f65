"""Loss terms and the objective: written formulas, schedules, controllers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.objectives import Pass
from saelab.objectives.terms.base import variance
from saelab.objectives.terms.sparsity import AnnealedLp
from saelab.sae import SAE, build
from saelab.sae.code import Encoding, Seen, SparseCode

D, F = 12, 40
DOUBLE = torch.float64


def made(kind: str, **settings: Any) -> SAE:
    torch.manual_seed(0)
    return build(kind, D, {"n_latents": F} | settings).sae.double()


def tokens(n: int = 30) -> Tensor:
    return torch.randn(n, D, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def with_code(code: Tensor, progress: float, sae: SAE | None = None) -> Pass:
    """A pass that consists of this dense code `[tok, lat]`."""
    sae = sae or made("relu")
    x = torch.zeros(len(code), D, dtype=DOUBLE)
    dead = torch.zeros(F, dtype=torch.bool)
    return Pass(sae, Seen(x, sae.W_dec), x, Encoding(SparseCode.from_dense(code)), x, dead, progress)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_batch_without_variance_has_a_finite_loss(dtype):
    assert float(variance(torch.zeros(0, D, dtype=dtype))) > 0
    assert float(variance(torch.zeros(5, D, dtype=dtype))) > 0
    same = torch.full((5, D), 3.0, dtype=dtype)
    assert bool(torch.isfinite((same + 1).square().sum() / variance(same)))
    x = tokens().to(dtype)
    assert torch.equal(variance(x), (x - x.mean(0)).square().sum())


def codes(n: int) -> list[Tensor]:
    torch.manual_seed(5)
    return [(torch.rand(64, F, dtype=DOUBLE) < 0.1) * 20 * torch.rand(64, F, dtype=DOUBLE) for _ in range(n)]


def test_annealing_reaches_its_end_in_equal_periods():
    term: Any = AnnealedLp(p_end=0.4, start_frac=0.5, updates=3)
    due = [term.due((step + 0.5) / 60) for step in range(60)]
    assert due == [0] * 30 + [1] * 10 + [2] * 10 + [3] * 10
    assert [round(term.exponent(update), 12) for update in range(5)] == [1.0, 0.8, 0.6, 0.4, 0.4]
    for step, code in enumerate(codes(60)):
        term(with_code(code, (step + 0.5) / 60))
        assert int(term.update) == due[step]


def test_annealing_does_not_jump():
    term: Any = AnnealedLp(p_end=0.3, start_frac=0.5, updates=2).double()
    sae = made("relu", decoder_norm=1.0)
    same = codes(1)[0]
    values = [float(term(with_code(same, step / 40, sae)).detach()) for step in range(40)]
    assert values == pytest.approx([values[0]] * 40, rel=1e-9)
    assert float(term.scale) > 2  # though the raw penalty fell


def test_annealing_compares_over_its_last_batches():
    term: Any = AnnealedLp(p_end=0.5, start_frac=0.5, updates=1).double()
    sae = made("relu", decoder_norm=1.0)
    batches = codes(31)
    for step, code in enumerate(batches):
        term(with_code(code, step / 60, sae))

    def mean(exponent: float) -> float:
        powers = [((c + term.EPS) ** exponent - term.EPS**exponent)[c > 0].sum() for c in batches[20:30]]
        return float(torch.stack(powers).mean())

    assert float(term.scale) == pytest.approx(mean(1.0) / mean(0.5))
