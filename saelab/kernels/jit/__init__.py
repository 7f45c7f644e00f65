"""CPU kernels compiled by numba at first use (and cached): float32 and float64, one pass over memory where it counts.

Rows are independent of each other in every kernel, so results do not depend on the number of threads.
`fastmath` may reorder sums, but keeps NaN and infinity what they are: comparisons with NaN are false.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import torch
from torch import Tensor

FAST = {"reassoc", "contract", "nsz", "arcp"}
ROWS_PER_TASK = 64
"""Rows that share a task's small buffers: an allocation per row costs as much as a row."""

_MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore  (asking numba would start its threads)


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Kept beside the source or in the user's cache directory; where neither can be written, for this process."""
    try:
        return numba.njit(cache=True, fastmath=FAST, error_model="numpy", **options)(function)
    except RuntimeError:
        return numba.njit(fastmath=FAST, error_model="numpy", **options)(function)


serial = _compiled
parallel = partial(_compiled, parallel=True)


def call(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """A kernel on tensors, with as many threads as torch uses."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, _MOST_THREADS))
    out = kernel(*(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))
    if torch.get_num_threads() != threads:  # both share one OpenMP, whose number numba sets when it first runs
        torch.set_num_threads(threads)
    return out
