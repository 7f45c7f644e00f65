"""The three primitives: every implementation against the dense formula, forward and gradients."""

from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saelab.errors import SaelabError
from saelab.kernels import (
    Support,
    builtin,
    dispatch,
    gather,
    latent_sum,
    reference,
    sampled_dot,
    transposed_scatter,
)


def ragged(mask: Tensor, spare: int = 0) -> Support:
    support = Support.from_mask(mask)
    latents = torch.cat([support.latents, support.latents.new_full((spare,), 2**30)])
    return Support(latents, support.offsets, support.n_latents)


def masks() -> dict[str, Tensor]:
    torch.manual_seed(0)
    full = torch.rand(13, 29)
    return {
        "sparse": full < 0.1,
        "dense": full < 0.7,
        "all": full < 2,
        "empty rows": (full < 0.2) & (torch.arange(13) % 2 == 0)[:, None],
        "nothing": full < 0,
        "no tokens": full[:0] < 1,
    }


@pytest.mark.parametrize("case", masks())
@pytest.mark.parametrize("spare", [0, 7])
def test_forward_equals_dense_formula(implementation, device, case, spare):
    mask = masks()[case].to(device)
    support = ragged(mask, spare)
    values = torch.randn(support.latents.numel(), dtype=torch.float64, device=device)
    weight = torch.randn(29, 5, dtype=torch.float64, device=device)
    rows = torch.randn(mask.shape[0], 5, dtype=torch.float64, device=device)
    block = torch.zeros(mask.shape, dtype=torch.float64, device=device)
    block[mask] = values[: support.nnz]

    torch.testing.assert_close(implementation.gather(values, support, weight), block @ weight)
    torch.testing.assert_close(implementation.transposed_scatter(values, support, rows), block.T @ rows)
    torch.testing.assert_close(implementation.latent_sum(values, support), block.sum(0))
    dots = implementation.sampled_dot(rows, weight, support)
    torch.testing.assert_close(dots[: support.nnz], (rows @ weight.T)[mask])
    assert dots.numel() == support.latents.numel()
    assert not dots[support.nnz :].any()


@pytest.mark.parametrize("name", ["saelab.kernels.blocks", "saelab.kernels.jit.primitives"])
def test_entries_become_a_block_and_come_back(name):
    kernels = import_module(name)
    mask = masks()["empty rows"]
    support, tokens = ragged(mask, spare=5), slice(3, 11)
    values = torch.randn(support.latents.numel())
    block = kernels.fill(values, support, tokens, torch.full((8, 29), torch.nan))
    assert torch.equal(block, torch.zeros(13, 29).masked_scatter(mask, values[: support.nnz])[tokens])
    out = torch.zeros_like(values)
    kernels.pick(block, support, tokens, out)
    inside = torch.zeros_like(values, dtype=torch.bool)
    inside[int(support.offsets[3]) : int(support.offsets[11])] = True
    assert torch.equal(out, torch.where(inside, values, 0.0))


@pytest.mark.parametrize("forced", ["reference", "cpu", "builtin", "dense", ""])
def test_every_gradient_and_every_second_gradient(monkeypatch, forced):
    monkeypatch.setenv("SAELAB_KERNELS", forced)
    torch.manual_seed(1)
    support = Support.from_mask(torch.rand(4, 7) < 0.4)
    values = torch.randn(support.nnz, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    cases = [
        (lambda v, w: gather(v, support, w), (values, weight)),
        (lambda r, w, b: sampled_dot(r, w, support, bias=b), (rows, weight, bias)),
        (lambda v, r: transposed_scatter(v, support, r), (values, rows)),
        (lambda v: latent_sum(v, support), (values,)),
    ]
    for function, inputs in cases:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_known_values_replace_the_forward_and_keep_the_backward():
    support = Support.from_rows(torch.tensor([[0, 2], [1, 2]]), 3)
    rows = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, dtype=torch.float64)
    known = torch.full((4,), 5.0, dtype=torch.float64)
    out = sampled_dot(rows, weight, support, known=known)
    assert out.tolist() == [5.0] * 4
    out.sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, weight[[0, 1]] + weight[2])


@given(
    n_tokens=st.integers(1, 5),
    n_latents=st.sampled_from([1, 3, 64, 512, 4096]),
    k=st.integers(1, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_top_k_finds_the_k_largest_values(n_tokens, n_latents, k, seed):
    k = min(k, n_latents)
    scores = torch.randn(n_tokens, n_latents, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    expected = scores.sort(1, descending=True).values[:, :k]
    for implementation in (reference, builtin):
        values, indices = implementation.top_k(scores, k)
        torch.testing.assert_close(values.sort(1, descending=True).values, expected)
        torch.testing.assert_close(scores.gather(1, indices), values)
        assert all(len(set(row.tolist())) == k for row in indices)


def test_reference_top_k_breaks_ties_by_the_lowest_index():
    assert reference.top_k(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2)[1].tolist() == [[1, 2]]


def test_support_knows_rows_transpose_and_density():
    support = Support.from_mask(torch.tensor([[True, False, True], [False, False, False], [True, True, True]]))
    assert support.rows.tolist() == [0, 0, 2, 2, 2]
    order, bounds = support.by_latent
    assert support.latents[order].tolist() == [0, 0, 1, 2, 2]
    assert bounds.tolist() == [0, 2, 3, 5]
    roomy = Support(torch.cat([support.latents, torch.tensor([1, 0])]), support.offsets, 3)
    assert roomy.rows.tolist() == [0, 0, 2, 2, 2]
    assert roomy.by_latent[0].tolist() == [*order.tolist(), 5, 6]
    assert roomy.by_latent[1].tolist() == [0, 2, 3, 5]
    assert support.density == pytest.approx(5 / 9)


def test_dispatch_looks_at_the_tensors_and_says_why():
    sparse = Support.from_rows(torch.zeros(1, 1, dtype=torch.int64), 100)
    full = Support.from_rows(torch.arange(100)[None], 100)
    assert dispatch.decide(torch.zeros(1), sparse) == ("cpu", "CPU tensors, sparse code")
    assert dispatch.decide(torch.zeros(1), full)[0] == "dense"
    assert "density 1.000 is at least" in dispatch.decide(torch.zeros(1), full)[1]
    name, reason = dispatch.decide(torch.zeros(1, dtype=torch.float16), sparse)
    assert name == "reference"
    assert "float32 and float64, not torch.float16" in reason


def test_forced_kernels_do_not_fall_back(monkeypatch):
    monkeypatch.setenv("SAELAB_KERNELS", "reference")
    assert dispatch.choose(torch.zeros(1)) is reference
    monkeypatch.setenv("SAELAB_KERNELS", "dense")
    sparse = Support.from_rows(torch.zeros(1, 1, dtype=torch.int64), 100)
    assert dispatch.decide(torch.zeros(1), sparse) == ("dense", "SAELAB_KERNELS=dense")
    monkeypatch.setenv("SAELAB_KERNELS", "cpu")
    with pytest.raises(SaelabError, match="SAELAB_KERNELS=cpu, but the tensors are on meta"):
        dispatch.choose(torch.zeros(1, device="meta"))
    with pytest.raises(SaelabError, match="SAELAB_KERNELS=cpu, but the CPU kernels take float32 and float64, not"):
        dispatch.choose(torch.zeros(1, dtype=torch.bfloat16))
    monkeypatch.setenv("SAELAB_KERNELS", "refrence")
    with pytest.raises(SaelabError, match=r"unknown kernels 'refrence'(.|\n)*did you mean 'reference'"):
        dispatch.choose(torch.zeros(1))
