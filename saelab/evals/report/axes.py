"""Axes of charts: where a value stands between 0 and 1, and which values are named along the way."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_FEW, _SHORT = 6, 4
"""So many different values, of so many letters, may all be named."""
_APART = 0.09
"""Shares of the axis that names keep from each other."""
_UNITS = ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " k"))
"""From when on, and by what, a number is divided."""
_LOGS = (math.log(sys.float_info.min), math.log(sys.float_info.max) - 1e-9)
_SAME = 1 + 1e-9
"""Values whose ratio is smaller are drawn as one."""


@dataclass(frozen=True)
class Axis:
    """A range of numbers, or names side by side.

    Attributes:
        low, high: what stands at 0 and at 1.
        log: equal steps are equal ratios.
        ticks: shares of the axis, and what is written there.
        names: in order; where there are any, `place` takes them.
    """

    low: float
    high: float
    log: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    names: Sequence[str] = ()

    def place(self, value: float | str) -> float:
        """The share of the axis where a value stands; beyond its ends, its end."""
        if isinstance(value, str):
            return (self.names.index(value) + 0.5) / len(self.names)
        return min(max(_share(value, self.low, self.high, self.log), 0.0), 1.0)


def of_names(names: Iterable[str], *, most: int) -> Axis:
    """Names side by side; of more than `most` every second one is written, or every third, ..."""
    kept = list(dict.fromkeys(names))
    step = math.ceil(len(kept) / most)
    ticks = [((i + 0.5) / len(kept), name) for i, name in enumerate(kept) if i % step == 0]
    return Axis(0, len(kept), ticks=ticks, names=kept)


def of_numbers(
    values: Iterable[float], *, log: bool, wanted: int = 5, from_zero: bool = False, exact: bool = False
) -> Axis:
    """From the smallest value to the largest, with a little room; logarithmic where all are positive.

    Args:
        values: at least one.
        wanted: about so many are named.
        exact: where there are few different values, and short ones, just those are named.
        from_zero: let 0 be one end, without room beyond it.
    """
    known = sorted(set(values))
    log = log and known[0] > 0 and not from_zero
    low, high = _with_room(known[0], known[-1], log)
    if from_zero:
        low, high = (0.0, high if known[-1] > 0 else 0.0) if known[0] >= 0 else (low, max(high, 0.0))
        high = high if high > low else low + 1.0
    few = _apart(known, low, high, log) if exact and 1 < len(known) <= _FEW else []
    named = few or _between(low, high, log, wanted)
    return Axis(low, high, log, [(_share(value, low, high, log), brief(value)) for value in named])


def brief(value: float) -> str:
    """A number as it stands beside an axis."""
    start = next((start for start in _UNITS if abs(value) >= start[0]), (0.0, 1.0, ""))
    return f"{value / start[1]:.4g}{start[2]}".replace("-", "−")


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        return (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _within(logarithm: float) -> float:
    """Its exponential, no smaller and no larger than numbers are."""
    return math.exp(min(max(logarithm, _LOGS[0]), _LOGS[1]))


def _with_room(least: float, most: float, log: bool) -> tuple[float, float]:
    if log:
        room = 0.05 * (math.log(most) - math.log(least)) if most > least * _SAME else math.log(1.5)
        return _within(math.log(least) - room), _within(math.log(most) + room)
    differ = most - least > (_SAME - 1) * max(abs(least), abs(most))
    room = 0.05 * (most - least) if differ else 0.1 * abs(most) or 1.0
    return least - room, most + room


def _apart(known: Sequence[float], low: float, high: float, log: bool) -> list[float]:
    """The values themselves, where their names are short and do not touch; else none."""
    places = [_share(value, low, high, log) for value in known]
    near = any(b - a < _APART for a, b in pairwise(places))
    long = any(len(brief(value)) > _SHORT for value in known)
    return [] if near or long else list(known)


def _between(low: float, high: float, log: bool, wanted: int) -> list[float]:
    """Round numbers inside the range."""
    from matplotlib.ticker import MaxNLocator

    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            round_ones = (float(f"{step}e{power}") for power in powers for step in steps)
            found = [value for value in round_ones if low <= value <= high]
            if 3 <= len(found) <= wanted + 1:
                return found
        if len(found) > wanted:
            return found[:: math.ceil(len(found) / wanted)]
    ticks = MaxNLocator(wanted, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]
