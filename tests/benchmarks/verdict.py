"""A bar, and whether it is met."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Something that has to hold.

    Attributes:
        what: is measured; found: its value; bar: in words; aim: what one would like.
    """

    what: str
    found: float
    bar: str
    aim: float | None
    met: bool
