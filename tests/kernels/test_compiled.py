"""Compiled kernels leave their surroundings as they are."""

from __future__ import annotations

import subprocess
import sys


def test_the_first_compiled_kernel_does_not_change_torchs_threads():
    code = (
        "import torch; torch.set_num_threads(1); from saelab.kernels import PerToken, select; "
        "select(torch.randn(9, 4), torch.randn(20, 4), torch.zeros(20), PerToken(2)); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_kernels_compile_where_nothing_can_be_written(monkeypatch):
    from numba.core import caching

    from saelab.kernels import jit

    def nowhere(*args, **kwargs):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(caching.FunctionCache, "__init__", nowhere)
    assert jit.serial(lambda x: x + 1)(2) == 3
