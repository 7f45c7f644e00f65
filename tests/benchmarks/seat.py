"""A process for each entry of a race: what one sets for its own process (allocator, threads) is not the others'."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import torch

from saelab.activations.loader import Batch

from .contest import Make, Recipe, Start

_REST_SECONDS = 0.02
"""Threads of the one before have gone to sleep by then."""


class Seat:
    """An entry in its process, which does one step when told to."""

    def __init__(self, make: Make, recipe: Recipe, start: Start, batches: Sequence[Batch]):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        threads = torch.get_num_threads()
        self.process = context.Process(target=_sit, args=(theirs, make, recipe, start, batches, threads), daemon=True)
        self.process.start()
        theirs.close()

    def step(self, number: int) -> float:
        """Seconds of one step with that batch."""
        time.sleep(_REST_SECONDS)
        self.pipe.send(number)
        return self.pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.join()


def _sit(pipe: Connection, make: Make, recipe: Recipe, start: Start, batches: Sequence[Batch], threads: int) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # the peers' dependencies have many
    runner = make(recipe, start)
    while True:
        batch = batches[pipe.recv() % len(batches)]
        started = time.perf_counter()
        runner.step(batch)
        pipe.send(time.perf_counter() - started)
