"""Lines on standard error that say what runs and how long is left."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts expected seconds; what is left is scaled by how long the part that is done has really taken.

    Args:
        expected: seconds of all the work on the machine the estimates were made on.
    """

    def __init__(self, expected: float):
        self.expected, self.done = expected, 0.0
        self.started = time.perf_counter()

    def advance(self, seconds: float) -> None:
        """As many expected seconds of work are done."""
        self.done += seconds

    def say(self, text: str) -> None:
        taken = time.perf_counter() - self.started
        left = (self.expected - self.done) * (taken / self.done if self.done else 1.0)
        sys.stderr.write(f"[{taken / 60:5.1f} min, about {max(left, 0) / 60:.0f} min left] {text}\n")
        sys.stderr.flush()
