"""How far a measurement is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Report = Callable[[int, int, str], None]
"""Called with pieces of work done, pieces in all, and what comes next."""


@dataclass
class Progress:
    """Tells `report` how far the work is, a piece at a time."""

    report: Report
    total: int
    done: int = 0

    def begin(self, what: str) -> None:
        self.report(self.done, self.total, what)
        self.done += 1
