"""Selection from tiles: every budget, compiled and in torch, against the whole matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saelab import kernels
from saelab.kernels import Above, Budget, PerBatch, PerLatent, PerToken, Selected, dispatch, products
from saelab.kernels import budgets as budgets_module
from saelab.kernels import selection as in_torch
from saelab.kernels.jit import selection as compiled

OPS = pytest.mark.parametrize("ops", [compiled, in_torch], ids=["compiled", "torch"])


def mask_of(found: Selected, shape: torch.Size) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[found.support.rows, found.support.latents[: found.support.nnz].long()] = True
    assert int(mask.sum()) == found.support.nnz  # a latent occurs once in a row
    return mask


def best(scores: Tensor, k: int, dim: int) -> Tensor:
    kept = scores.topk(min(k, scores.shape[dim]), dim).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(dim, kept, True)


def truth(pre: Tensor, budget: Budget) -> Tensor:
    """By the definition, from all pre-activations at once."""
    if isinstance(budget, PerToken):
        others = [rows @ weight.T for rows, weight in budget.beside]
        return best(budget.score(pre.clone(), *others), budget.k, 1)
    if isinstance(budget, PerBatch):
        return best(pre.reshape(1, -1), budget.count, 1).view_as(pre) & (pre > 0)
    if isinstance(budget, Above):
        return pre > budget.threshold
    assert isinstance(budget, PerLatent)
    columns = [best(pre[:, [i]], int(quota), 0) for i, quota in enumerate(budget.quotas)]
    return torch.cat(columns, 1) & (pre > 0)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case comes in several tiles."""
    monkeypatch.setattr(products, "TILE_ENTRIES", 512)
    monkeypatch.setattr(products, "TILE_COLUMNS", 100)
    monkeypatch.setattr(budgets_module, "TILE_ENTRIES", 512)


def world(n_tokens: int, n_latents: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tokens, 8, generator=draw, dtype=dtype)
    weight = torch.randn(n_latents, 8, generator=draw, dtype=dtype)
    return x, weight, torch.randn(n_latents, generator=draw, dtype=dtype)


def budgets(n_tokens: int, n_latents: int) -> dict[str, Budget]:
    x, weight, bias = world(n_tokens, n_latents, seed=5)
    return {
        "token": PerToken(7),
        "magnitude": PerToken(7, torch.Tensor.abs_),
        "beside": PerToken(7, lambda pre, other: pre.mul_(1 + other.abs()), ((x, weight),)),
        "batch": PerBatch(7 * n_tokens),
        "whole batch": PerBatch(n_tokens * n_latents),
        "nothing": PerBatch(0),
        "latent": PerLatent(torch.arange(n_latents) % 5),
        "above": Above(torch.tensor(3.0, dtype=torch.float64)),
        "above each": Above(bias + 2),
    }


@OPS
@pytest.mark.parametrize("shape", [(13, 333), (5, 40), (64, 3), (1, 100), (0, 30), (30, 101)], ids=str)
@pytest.mark.parametrize("name", budgets(1, 1))
def test_a_budget_keeps_what_its_definition_says(monkeypatch, small_tiles, ops, shape, name):
    monkeypatch.setattr(dispatch, "selection", lambda tensor: ops)
    x, weight, bias = world(*shape)
    budget, pre = budgets(*shape)[name], torch.addmm(bias, x, weight.T)
    found = kernels.select(x, weight, bias, budget)
    assert torch.equal(mask_of(found, pre.shape), truth(pre, budget))
    torch.testing.assert_close(found.values[: found.support.nnz], pre[mask_in_order(found)])
    held = kernels.select_from(pre, budget)
    assert torch.equal(mask_of(Selected(held, found.values), pre.shape), truth(pre, budget))


def mask_in_order(found: Selected) -> tuple[Tensor, Tensor]:
    return found.support.rows, found.support.latents[: found.support.nnz].long()


@given(st.integers(1, 40), st.integers(1, 700), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_largest_of_each_row_whatever_the_tiles(n_tokens, n_latents, k, seed):
    scores = torch.randn(n_tokens, n_latents, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    top = compiled.TopRows(n_tokens, min(k, n_latents), products.Held(scores))
    widths = torch.randint(1, 300, (1000,), generator=torch.Generator().manual_seed(seed)).cumsum(0).tolist()
    start = 0
    for stop in [*(w for w in widths if w < n_latents), n_latents]:
        top.push(scores[:, start:stop].contiguous(), slice(0, n_tokens), start)
        start = stop
    columns = top.finish().long()
    assert all(len(set(row.tolist())) == columns.shape[1] for row in columns)
    wanted = scores.sort(1, descending=True).values[:, : columns.shape[1]]
    assert torch.equal(scores.gather(1, columns).sort(1, descending=True).values, wanted)


@OPS
def test_rows_of_nan_or_minus_infinity_still_name_k_latents(ops):
    scores = torch.randn(4, 300)
    scores[0], scores[1], scores[2, 5:] = float("nan"), -float("inf"), float("nan")
    top = ops.TopRows(4, 9, products.Held(scores))
    top.push(scores.clone(), slice(0, 4), 0)
    columns = top.finish()
    assert all(len(set(row.tolist())) == 9 and min(row) >= 0 and max(row) < 300 for row in columns)
    assert set(columns[3].tolist()) == set(scores[3].topk(9).indices.tolist())


def test_no_block_grows_with_the_number_of_latents(monkeypatch):
    taken: list[int] = []
    right = products._SCRATCH.take

    def take(purpose, shape, dtype, device):
        taken.append(shape[0] * shape[1])
        return right(purpose, shape, dtype, device)

    monkeypatch.setattr(products._SCRATCH, "take", take)
    monkeypatch.setattr(products, "TILE_ENTRIES", 2**14)
    monkeypatch.setattr(products, "TILE_COLUMNS", 2**10)
    x, weight, bias = world(64, 20_000, dtype=torch.float32)
    for screened in (False, True):
        for budget in (PerToken(4), PerBatch(256), Above(torch.tensor(8.0))):
            kernels.select(x, weight, bias, budget, screened=screened)
    assert max(taken) <= 2**14


# -- screening --------------------------------------------------------------------------------------------------


def activations(n_tokens: int, d: int = 96) -> tuple[Tensor, Tensor, Tensor]:
    """Like a model's: a few dimensions ten times larger than the others, tokens of uneven length."""
    draw = torch.Generator().manual_seed(3)
    spread = torch.ones(d)
    spread[:3] = 10.0
    x = torch.randn(n_tokens, d, generator=draw) * spread * (0.5 + torch.rand(n_tokens, 1, generator=draw))
    weight = torch.nn.functional.normalize(torch.randn(2000, d, generator=draw) / spread, dim=1)
    return x, weight, 0.1 * torch.randn(2000, generator=draw)


@pytest.mark.parametrize("kind", [products.InInt8, products.InBFloat16], ids=lambda kind: kind.label)
@pytest.mark.parametrize("name", ["token", "magnitude", "batch", "latent", "above"])
def test_screening_finds_the_exact_support(monkeypatch, kind, name):
    monkeypatch.setattr(dispatch, "screening", lambda tensor: kind)
    x, weight, bias = activations(1024)
    budget = {
        "token": PerToken(32),
        "magnitude": PerToken(32, torch.Tensor.abs_),
        "batch": PerBatch(32 * 1024),
        "latent": PerLatent(torch.full((2000,), 16)),
        "above": Above(torch.tensor(2.5)),
    }[name]
    exact, screened = (kernels.select(x, weight, bias, budget, screened=flag) for flag in (False, True))
    wanted, found = mask_of(exact, torch.Size((1024, 2000))), mask_of(screened, torch.Size((1024, 2000)))
    assert int(wanted.sum()) > 10_000
    assert int((wanted & found).sum()) >= 0.9999 * int(wanted.sum())
    assert int(found.sum()) <= int(wanted.sum())
    pre = torch.addmm(bias, x, weight.T)
    torch.testing.assert_close(screened.values, pre[mask_in_order(screened)], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("bar", "screens"), [(-0.5, False), (0.0, False), (2.5, True)])
def test_what_is_mostly_kept_is_not_screened(monkeypatch, bar, screens):
    asked: list[bool] = []
    monkeypatch.setattr(dispatch, "screening", lambda tensor: asked.append(True) or products.InBFloat16)
    x, weight, bias = activations(256)
    exact, found = (
        kernels.select(x, weight, bias, Above(torch.tensor(bar)), screened=screened) for screened in (False, True)
    )
    assert bool(asked) is screens
    if not screens:
        assert torch.equal(found.support.latents, exact.support.latents)
        assert torch.equal(found.values, exact.values)


def test_a_gram_matrix_is_symmetric_to_the_bit():
    rows = torch.randn(1300, 96)
    found = products.gram(rows)
    torch.testing.assert_close(found, rows @ rows.T)
    assert torch.equal(found, found.T)


def test_integer_scores_are_as_near_as_they_say():
    x, weight, bias = activations(200)
    tiles = products.InInt8(x, weight, bias)
    rows, columns = slice(10, 190), slice(100, 1900)
    tile = tiles.tile(rows, columns).clone()
    error = (tile - torch.addmm(bias, x, weight.T)[rows, columns]).abs()
    assert bool((error <= tiles.slack(tile, rows)[:, None]).float().mean() > 0.99999)
    assert float(error.max()) > 0


def test_quantised_rows_keep_their_zeros_and_their_largest():
    from saelab.kernels.jit.quantised import quantise

    rows = torch.randn(5, 70)
    rows[2] = 0
    small, scales, norms = quantise(rows, torch.full((70,), 2.0))
    torch.testing.assert_close(small * scales[:, None], 2 * rows, atol=float(scales.max()) / 2 + 1e-6, rtol=0)
    assert small.abs().amax(1).tolist() == [127, 127, 0, 127, 127]
    torch.testing.assert_close(norms, 2 * rows.norm(dim=1))
