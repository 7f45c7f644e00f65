"""The Triton kernels: on CUDA where there is a GPU, else on CPU tensors in Triton's interpreter.

Fresh memory is full of NaN here, so that whatever a kernel leaves unwritten shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saelab.errors import SaelabError
from saelab.kernels import Support, dispatch, gather, latent_sum, reference, sampled_dot, transposed_scatter
from saelab.kernels import triton as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2**-10,  # the rounding of the result alone: sums are taken in float32
    torch.bfloat16: 2**-7,
}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch fills fresh memory with NaN, and raises where an operation of its own is not deterministic."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mask_of(n_tokens: int, n_latents: int, share: float) -> Tensor:
    """A row without entries, a latent in every other row, one in none; the rest at random."""
    mask = torch.rand(n_tokens, n_latents, generator=torch.Generator().manual_seed(3)) < share
    mask[:, 0], mask[:, -1], mask[n_tokens // 2] = True, False, False
    return mask


def support_of(mask: Tensor, spare: int = 0, dtype: torch.dtype = torch.int32) -> Support:
    """With spare capacity that points nowhere."""
    rows, latents = mask.nonzero(as_tuple=True)
    offsets = torch.bincount(rows, minlength=mask.shape[0]).cumsum(0)
    return Support(
        torch.cat([latents, latents.new_full((spare,), 2**30)]).to(DEVICE, dtype),
        torch.cat([offsets.new_zeros(1), offsets]).to(DEVICE, dtype),
        mask.shape[1],
    )


def check(support: Support, values: Tensor, weight: Tensor, rows: Tensor) -> None:
    """All four against the reference on the same numbers in float64; spare capacity holds NaN, and zeros after."""
    nnz, tolerance = support.nnz, TOLERANCE[weight.dtype]
    if nnz < support.latents.numel():
        values = torch.cat([values[:nnz], values.new_full((support.latents.numel() - nnz,), float("nan"))])
    plain = Support(support.latents[:nnz].cpu(), support.offsets.cpu(), support.n_latents)
    v, w, r = (tensor.to(DEVICE) for tensor in (values, weight, rows))
    v64, w64, r64 = (tensor.to("cpu", torch.float64) for tensor in (values[:nnz], weight, rows))
    dots = kernels.sampled_dot(r, w, support)
    assert not dots[nnz:].any()
    for found, wanted in [
        (kernels.gather(v, support, w), reference.gather(v64, plain, w64)),
        (dots[:nnz], reference.sampled_dot(r64, w64, plain)),
        (kernels.transposed_scatter(v, support, r), reference.transposed_scatter(v64, plain, r64)),
        (kernels.latent_sum(v, support), reference.latent_sum(v64, plain)),
    ]:
        assert found.dtype == weight.dtype
        torch.testing.assert_close(found.to("cpu", torch.float64), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_dtype_is_summed_in_float32_or_wider(dtype, index):
    support = support_of(mask_of(9, 70, 0.6), spare=5, dtype=index)
    check(support, randn(support.nnz, dtype=dtype), randn(70, 33, dtype=dtype), randn(9, 33, dtype=dtype, seed=1))


@pytest.mark.parametrize(("n_tokens", "n_latents", "d"), [(1, 2, 1), (3, 5, 257), (2, 41, 300), (5, 40, 256)])
def test_shapes_need_not_be_powers_of_two(n_tokens, n_latents, d):
    support = support_of(mask_of(n_tokens, n_latents, 0.9))
    check(support, randn(support.nnz), randn(n_latents, d), randn(n_tokens, d, seed=1))


def test_rows_of_equal_width():
    latents = torch.stack([torch.randperm(50)[:19] for _ in range(4)]).to(DEVICE)
    check(Support.from_rows(latents, 50), randn(4 * 19), randn(50, 300), randn(4, 300, seed=1))


def test_no_tokens_and_no_entries():
    for mask in (torch.zeros(0, 5), torch.zeros(3, 5)):
        for spare in (0, 4):
            check(support_of(mask.bool(), spare), randn(0), randn(5, 3), randn(len(mask), 3))


@pytest.mark.parametrize("chunk", [2, 4, 128])
def test_latents_with_any_number_of_chunks(monkeypatch, chunk):
    """Latent f is in the first `counts[f]` rows: around every border of chunks, from none to all."""
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    counts = torch.tensor([0, 1, 2, 3, 4, 5, 0, 7, 8, 9, 11, 30, 1, 4, 4, 4, 12] if chunk < 128 else [130, 128, 129])
    mask = torch.arange(int(counts.max()))[:, None] < counts[None, :]
    support = support_of(mask, spare=3)
    v, r = randn(support.latents.numel()).to(DEVICE), randn(len(mask), 3, seed=1).to(DEVICE)
    block = torch.zeros(mask.shape, dtype=torch.float64)
    block[mask] = v[: support.nnz].cpu()
    found = kernels.transposed_scatter(v, support, r)
    torch.testing.assert_close(found.cpu(), block.T @ r.cpu())
    assert torch.equal(kernels.transposed_scatter(v, support, r), found)
    torch.testing.assert_close(kernels.latent_sum(v, support).cpu(), block.sum(0))


def test_inputs_need_not_be_contiguous():
    mask = mask_of(6, 20, 0.4)
    plain = support_of(mask)
    strided = Support(plain.latents.repeat_interleave(2)[::2], plain.offsets.repeat_interleave(3)[::3], 20)
    values, weight, rows = (t.to(DEVICE) for t in (randn(plain.nnz), randn(20, 7), randn(6, 7, seed=1)))
    for change in (
        lambda t: t.repeat_interleave(2, 0)[::2],  # rows apart
        lambda t: t.repeat_interleave(2, -1)[..., ::2],  # elements of a row apart
        lambda t: t.mT.contiguous().mT if t.ndim == 2 else t,
        lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    ):
        check(strided, change(values), change(weight), change(rows))
    check(strided, values[:1].expand(plain.nnz), weight[:1].expand(20, 7), rows[:, :1].expand(6, 7))


def test_places_past_two_to_the_31st(monkeypatch):
    """Rows of a weight that lie 2^30 elements apart, in memory that is reserved and never touched."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    weight = torch.empty_strided((3, 4), (2**30, 1), dtype=torch.float16, device=DEVICE)
    weight[:] = torch.arange(12.0).view(3, 4)
    support = Support.from_rows(torch.tensor([[2], [0], [1]], device=DEVICE), 3)
    ones = torch.ones(3, dtype=torch.float16, device=DEVICE)
    assert kernels.gather(ones, support, weight).tolist() == [[8, 9, 10, 11], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert kernels.sampled_dot(weight, weight, support).tolist() == [62, 38, 214]
    assert kernels.transposed_scatter(ones, support, weight).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_gradient_and_every_second_gradient(monkeypatch, dtype):
    support = support_of(mask_of(4, 7, 0.4))

    def results(name: str, device: str, dtype: torch.dtype) -> list[Tensor]:
        monkeypatch.setenv("SAELAB_KERNELS", name)
        home = Support(support.latents.to(device), support.offsets.to(device), 7)
        v, w, r, b = (
            randn(*shape, dtype=dtype, seed=seed).to(device).requires_grad_()
            for seed, shape in enumerate([(support.nnz,), (7, 3), (4, 3), (7,)])
        )
        cases: list[tuple[Tensor, tuple[Tensor, ...]]] = [
            (gather(v, home, w), (v, w)),
            (sampled_dot(r, w, home, bias=b), (r, w, b)),
            (transposed_scatter(v, home, r), (v, r)),
            (latent_sum(v, home), (v,)),
        ]
        found = []
        for out, inputs in cases:
            first = torch.autograd.grad(out.pow(3).sum(), inputs, create_graph=True)
            second = torch.autograd.grad(torch.stack([grad.square().sum() for grad in first]).sum(), inputs)
            found += [out, *first, *second]
        return found

    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}[dtype]
    for found, wanted in zip(results("triton", DEVICE, dtype), results("reference", "cpu", torch.float64), strict=True):
        torch.testing.assert_close(found.to("cpu", torch.float64), wanted, rtol=tolerance, atol=tolerance)


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU's numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "equal"}, name
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device():
    v, w, r = (randn(*shape).to(DEVICE).requires_grad_() for shape in [(12,), (9, 5), (4, 5)])
    fixed = Support.from_rows(torch.arange(12).view(4, 3).remainder(9).to(DEVICE), 9)
    ragged = Support(fixed.latents, torch.tensor([0, 5, 5, 7, 10], dtype=torch.int32, device=DEVICE), 9)
    with NoWaiting():
        for support in (fixed, ragged):
            kernels.gather(v, support, w)
            kernels.sampled_dot(r, w, support)
            kernels.transposed_scatter(v, support, r)
            kernels.latent_sum(v, support)
            assert dispatch._dense_enough(support, "cuda")


def test_nothing_is_compiled_anew_for_another_batch(monkeypatch):
    """Triton compiles per dtype and per number that it is given: none of these may be a batch's."""
    seen: list[Any] = []

    def launch(kernel: Any, grid: tuple[int, int], *args: Any, **constants: int) -> None:
        numbers = [arg.dtype if isinstance(arg, Tensor) else arg for arg in args]
        seen.append((kernel.fn.__name__, numbers, constants))

    monkeypatch.setattr(kernels, "_launch", launch)
    for n_tokens in (16, 31):
        support = support_of(mask_of(n_tokens, 20, 0.3))
        v, w, r = (randn(*shape).to(DEVICE) for shape in [(support.nnz,), (20, 6), (n_tokens, 6)])
        kernels.gather(v, support, w)
        kernels.sampled_dot(r, w, support)
        kernels.transposed_scatter(v, support, r)
    assert len(seen) == 8
    assert seen[:4] == seen[4:]


@pytest.mark.slow
def test_kernels_compile_for_gpus_without_atomics(tmp_path):
    """What the interpreter cannot say; in a process where Triton compiles. Needs no GPU."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["_gather", "_later_chunks", "_sampled_dot", "_scatter"]


def cuda_tensor() -> Any:
    """All that the dispatcher looks at, on machines without a GPU too."""
    return SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "saelab.kernels.triton")
    dispatch._imported.cache_clear()
    yield
    dispatch._imported.cache_clear()


def wide_and_narrow() -> tuple[Support, Support]:
    return tuple(Support.from_rows(torch.zeros(1, 1, dtype=torch.int64), n) for n in (220, 219))  # type: ignore[return-value]


def test_cuda_tensors_go_to_triton_unless_the_code_is_dense():
    sparse, full = wide_and_narrow()
    assert dispatch.decide(cuda_tensor(), sparse) == ("triton", "CUDA tensors, sparse code")
    assert dispatch.decide(cuda_tensor()) == ("triton", "CUDA tensors, sparse code")
    assert dispatch.decide(cuda_tensor(), full) == ("dense", "fewer than 220 latents per entry")


@pytest.mark.usefixtures("no_triton")
def test_without_triton_cuda_tensors_go_to_the_reference_which_says_why(monkeypatch):
    name, reason = dispatch.decide(cuda_tensor(), wide_and_narrow()[0])
    assert name == "reference"
    assert "triton cannot be imported" in reason
    monkeypatch.setenv("SAELAB_KERNELS", "triton")
    with pytest.raises(SaelabError, match="SAELAB_KERNELS=triton, but triton cannot be imported"):
        dispatch.choose(cuda_tensor())


def test_forced_triton_takes_cpu_tensors_in_the_interpreter_alone(monkeypatch):
    monkeypatch.setenv("SAELAB_KERNELS", "triton")
    assert dispatch.decide(cuda_tensor()) == ("triton", "SAELAB_KERNELS=triton")
    with pytest.raises(SaelabError, match="the tensors are on meta"):
        dispatch.choose(torch.zeros(1, device="meta"))
    monkeypatch.setattr(kernels, "INTERPRETED", True)
    assert dispatch.choose(torch.zeros(1)) is kernels
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(SaelabError, match=r"the tensors are on cpu(.|\n)*TRITON_INTERPRET=1"):
        dispatch.choose(torch.zeros(1))
