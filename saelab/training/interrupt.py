"""SIGINT and SIGTERM as a wish to stop, so that training can finish its step and write a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether this process has been asked to stop, and by which signal first."""

    signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside, SIGINT and SIGTERM only set `requested`; the handlers from before are restored afterwards.

    A SIGINT after the first of either raises `KeyboardInterrupt` at once, for a person who will not wait. A signal
    that this process ignores (`nohup`, a job in the background) stays ignored. Outside the main thread, where
    Python runs no handlers, nothing changes and nothing is ever requested.
    """
    stop = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.signal is None:
            stop.signal = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in STOPPING}
    mine: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        mine = [number for number in STOPPING if before[number] not in (signal.SIG_IGN, None)]  # None: not Python's
    try:
        for number in mine:
            signal.signal(number, handle)
        yield stop
    finally:
        for number in mine:
            signal.signal(number, before[number])
