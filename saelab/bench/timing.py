"""Times of several things in alternation, so that a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from saelab.bench.progress import Progress

_LEAST_SECONDS = 2e-3
"""What is quicker is run several times a measurement."""
_MOST_REPEATS = 100
_COPY_BYTES = 2**28
"""Larger than most caches."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call, a value a round."""

    ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    def document(self) -> dict[str, float]:
        """JSON-able."""
        return {"ms_median": self.median, "ms_min": min(self.ms), "ms_max": max(self.ms)}


def alternate(
    cases: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, progress: Progress
) -> dict[str, Times]:
    """Each case once a round, after two calls that are not measured: the first compiles and allocates, the second
    says how many calls make a measurement. Begins `rounds` pieces of work."""
    wait = torch.cuda.synchronize if device.type == "cuda" else _nothing
    repeats = {}
    for name, case in cases.items():
        case()
        repeats[name] = min(math.ceil(_LEAST_SECONDS / max(_seconds(case, 1, wait), 1e-9)), _MOST_REPEATS)
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        progress.begin(f"round {number + 1}")
        for name, case in cases.items():
            taken[name].append(1e3 * _seconds(case, repeats[name], wait))
    return {name: Times(tuple(ms)) for name, ms in taken.items()}


def _seconds(case: Callable[[], object], repeats: int, wait: Callable[[], object]) -> float:
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        case()
    wait()
    return (time.perf_counter() - started) / repeats


def _nothing() -> None:
    pass


@dataclass(frozen=True, eq=False)
class Copy:
    """A copy of a large block of memory; `moved` bytes are read or written by one call."""

    source: torch.Tensor
    into: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, size: int = _COPY_BYTES) -> Copy:
        source = torch.zeros(size // 4, device=device)
        return cls(source, torch.zeros_like(source))

    def __call__(self) -> None:
        self.into.copy_(self.source)

    @property
    def moved(self) -> int:
        return 2 * self.source.nbytes

    def bandwidth(self, times: Times) -> float:
        """Bytes a second."""
        return self.moved / (times.median / 1e3)


@contextmanager
def threads(wanted: int | None) -> Iterator[None]:
    """So many threads inside operators; None: as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
