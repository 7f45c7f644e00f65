"""Each implementation, on each device that it can be tested on. Triton's kernels are interpreted on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch

from saelab.kernels import dispatch

CUDA = torch.cuda.is_available()
TARGETS = [(name, "cpu") for name in ("reference", "cpu", "builtin", "dense")]
if CUDA:
    TARGETS += [(name, "cuda") for name in ("reference", "dense")]
if find_spec("triton"):
    TARGETS += [("triton", "cuda" if CUDA else "cpu")]
else:
    collect_ignore = ["test_triton.py"]


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    """Kernels share their work out, however many threads the other tests have."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, 2))
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=TARGETS, ids="-".join)
def target(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def implementation(target: tuple[str, str]) -> ModuleType:
    return dispatch.implementation(target[0])


@pytest.fixture
def device(target: tuple[str, str]) -> str:
    return target[1]
