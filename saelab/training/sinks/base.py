"""What a sink is, and what keeps one that fails from stopping a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Sink(Protocol):
    """Takes a line of metrics at a step."""

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SinkRun:
    """The run whose metrics are to be kept.

    Attributes:
        name: for people.
        id: its own, and the same whenever it is resumed.
        directory: its own.
        config: JSON-able.
        step: what it goes on from; 0 where it begins.
    """

    name: str
    id: str
    directory: Path
    config: dict[str, Any]
    step: int


class Guarded:
    """A sink that cannot stop a run: its first failure, in opening, logging or closing, is a warning, the rest silent.

    Args:
        title: what the warning calls it.
        connect: opens it; where that fails, there is nothing to log to.
        told: lines up to this step are left out: it has them from before the run was resumed.
    """

    def __init__(self, title: str, connect: Callable[[], Sink], *, told: int = 0):
        self.title, self.told = title, told
        self._warned = False
        self._sink = self._attempt(connect)

    @property
    def connected(self) -> bool:
        return self._sink is not None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if self._sink is not None and step > self.told:
            self._attempt(self._sink.log, step, metrics)

    def close(self) -> None:
        if self._sink is not None:
            self._attempt(self._sink.close)

    def _attempt(self, action: Callable[..., T], *args: Any) -> T | None:
        try:
            return action(*args)
        except Exception as error:  # whatever a network client may raise
            if not self._warned:
                self._warned = True
                reason = str(error) or type(error).__name__
                warnings.warn(f"{self.title} failed, training goes on without it: {reason}", stacklevel=3)
            return None
