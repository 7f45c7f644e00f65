"""Races: the entries of a case in turn, round after round, on the same batches, each in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from saelab.activations.loader import Batch

from .cases import Case, start_of
from .data import with_gradients
from .progress import Progress
from .seat import Seat
from .verdict import Verdict

ROUNDS, FEW_ROUNDS, MANY_ROUNDS = 7, 3, 31
_WARM_UP_ROUNDS = 2
_SLOW_SECONDS, _QUICK_SECONDS = 3.0, 0.2
"""Where an entry takes longer than the first, a case has few rounds; where all take less than the other, many."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each round that counts, in order."""

    case: str
    entry: str
    ms: tuple[float, ...]
    batch_tokens: int

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    def document(self) -> dict[str, Any]:
        return asdict(self) | {
            "ms_median": self.median,
            "ms_min": min(self.ms),
            "ms_max": max(self.ms),
            "tokens_per_second": 1e3 * self.batch_tokens / self.median,
        }


def take_turns(seats: Mapping[str, Seat]) -> dict[str, tuple[float, ...]]:
    """Milliseconds by entry and round. Within a round all entries have the same batch; the rounds
    before are for warming up, and tell how many are to follow."""
    taken: dict[str, list[float]] = {name: [] for name in seats}
    slowest = 0.0
    for _ in range(_WARM_UP_ROUNDS):
        slowest = max(seat.step(0) for seat in seats.values())
    rounds = FEW_ROUNDS if slowest > _SLOW_SECONDS else MANY_ROUNDS if slowest < _QUICK_SECONDS else ROUNDS
    for number in range(rounds):
        for name, seat in seats.items():
            taken[name].append(1e3 * seat.step(number))
    return {name: tuple(ms) for name, ms in taken.items()}


def race(case: Case, batches: Sequence[Batch], progress: Progress) -> list[Timing]:
    """All entries of a case, made, raced and let go."""
    batches = [_cut(batch, case.recipe.batch_tokens) for batch in batches]
    if case.loss_grad:
        batches = [with_gradients(batch) for batch in batches]
    start = start_of(case, batches[0].input)
    with ExitStack() as stack:
        made = {name: Seat(make, case.recipe, start, batches) for name, make in case.entries.items()}
        taken = take_turns({name: stack.enter_context(seat) for name, seat in made.items()})
    timings = [Timing(case.name, name, ms, case.recipe.batch_tokens) for name, ms in taken.items()]
    progress.advance(expected(case))
    shown = ", ".join(f"{timing.entry} {timing.median:.0f}" for timing in timings)
    progress.say(f"{case.name} (ms): {shown}")
    return timings


def expected(case: Case) -> float:
    """Seconds that a race takes, about."""
    rounds = FEW_ROUNDS if case.seconds > 15 else MANY_ROUNDS if case.seconds < 1 else ROUNDS
    return case.seconds * (rounds + _WARM_UP_ROUNDS)


def _cut(batch: Batch, n_tokens: int) -> Batch:
    return Batch(batch.input[:n_tokens], batch.target[:n_tokens])


def ratio(of: Timing, over: Timing) -> float:
    """How many times as long. Rounds are paired, so that a machine that slows down for a while does not matter."""
    return statistics.median(a / b for a, b in zip(of.ms, over.ms, strict=True))


def judge(case: Case, timings: Sequence[Timing]) -> list[Verdict]:
    """The case's bars, and what was found."""
    by_name = {timing.entry: timing for timing in timings}
    return [
        Verdict(
            f"{case.name}: time of {bar.of} / {bar.over}",
            ratio(by_name[bar.of], by_name[bar.over]),
            f"{'at most' if bar.at_most else 'at least'} {bar.limit:g}",
            bar.aim,
            bar.met(ratio(by_name[bar.of], by_name[bar.over])),
        )
        for bar in case.bars
    ]
