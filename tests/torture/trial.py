"""Trials: a command killed again and again until it ends, and what it ends with compared."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from . import process
from .artefacts import artefacts, being_written, differences, place, snapshot
from .phases import CONFIG, Phase, World

_SHARES = (0.05, 0.3, 0.3, 1.0, 1.0, 1.0)
"""A kill falls within this share of the undisturbed time: a sixth right after the start, a third early."""
_AT_A_WRITE = 1 / 3
"""Of all kills: these wait, from their moment on, until a file is being written."""
_LONGEST_SECONDS = 300.0
"""A command that takes longer hangs."""
_SIGNALS = (*[signal.SIGKILL] * 6, signal.SIGTERM, signal.SIGINT)
_ENDS = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}, signal.SIGINT: {130, 1}}
"""Exit codes by signal. The second is what a process that is not training yet, or not even saelab's, ends with."""


class TrialError(Exception):
    """A command ended as it should not."""


@dataclass(frozen=True)
class Moment:
    """When and how a command is stopped.

    Attributes:
        seconds: after its start.
        at_a_write: then not before a file is being written.
    """

    seconds: float
    at_a_write: bool
    signal: signal.Signals


@dataclass
class Outcome:
    """What became of one phase.

    Attributes:
        seconds: of the undisturbed command, once imports are done.
        trials: times it came to its end; starts: of the command.
        signals, places: how often it was stopped by each, and where.
        wrong: what was not as it should be; empty if all is well.
    """

    phase: str
    seconds: float = 0.0
    trials: int = 0
    starts: int = 0
    signals: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.signals[signal.SIGKILL.name]


@dataclass(frozen=True)
class Plan:
    """How a phase is tortured.

    Attributes:
        kills: how many SIGKILLs, with a few other signals between them; fewer where `until` (of `time.monotonic`)
            comes first.
        seed: of their moments.
        plainly: compare with the command as a user starts it, besides a forked one.
    """

    kills: int
    until: float
    seed: int
    plainly: bool = True


def moments(rng: random.Random, seconds: float) -> Iterator[Moment]:
    """Without end, for a command that takes so many seconds."""
    while True:
        after = rng.random() * rng.choice(_SHARES) * seconds
        yield Moment(after, rng.random() < _AT_A_WRITE, rng.choice(_SIGNALS))


@dataclass
class Torture:
    """Kills the command of one phase, as planned.

    Args:
        directory: for all its trials; those that end well are removed.
        say: told what happens.
    """

    phase: Phase
    world: World
    directory: Path
    plan: Plan
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.phase.name)

    def run(self) -> Outcome:
        outcome, plan = self.outcome, self.plan
        try:
            expected = self._undisturbed()
            stops = moments(random.Random(f"{plan.seed} {self.phase.name}"), outcome.seconds)
            while self._more():
                self._trial(stops, expected)
        except TrialError as error:
            outcome.wrong.append(str(error))
        if outcome.kills < plan.kills and not outcome.wrong:
            outcome.wrong.append(f"time was up after {outcome.kills} of {plan.kills} kills")
        return outcome

    def _more(self) -> bool:
        return self.outcome.kills < self.plan.kills and time.monotonic() < self.plan.until

    def _undisturbed(self) -> dict[str, str]:
        """What the command makes when nothing stops it."""
        prepared = self.directory / "prepared"
        prepared.mkdir(parents=True)
        (prepared / CONFIG).write_text(self.world.config(self.phase))
        for command in self.phase.prepared_by:
            _check_end(prepared, _wait(process.start(command, CONFIG, prepared)))
        with self._copy("undisturbed") as here:
            started = time.monotonic()
            _check_end(here, _wait(process.start(self.phase.command, CONFIG, here)))
            self.outcome.seconds = time.monotonic() - started
            expected = artefacts(here)
        if self.plan.plainly:
            with self._copy("plain") as here:
                _check_end(here, process.plainly(self.phase.command, CONFIG, here))
                _check_same(here, expected)
        self.say(f"{self.phase.name}: {self.outcome.seconds:.1f} s undisturbed, {len(expected)} files to compare")
        return expected

    def _trial(self, stops: Iterator[Moment], expected: dict[str, str]) -> None:
        """The command, started again until it comes to its end."""
        self.outcome.trials += 1
        with self._copy(f"trial-{self.outcome.trials:03d}") as here:
            while self._stopped(here, next(stops) if self._more() else None):
                pass
            _check_same(here, expected)
        self.say(f"{self.phase.name}: {self.outcome.kills} of {self.plan.kills} kills")

    def _stopped(self, here: Path, moment: Moment | None) -> bool:
        """Start the command, stop it at the moment if there is one; False where it came to its end."""
        found = snapshot(here)
        running = process.start(self.phase.command, CONFIG, here)
        self.outcome.starts += 1
        if moment is not None:
            _stop(running, moment, here)
        code = _wait(running)
        if moment is None or code not in _ENDS[moment.signal]:
            _check_end(here, code)
            return False
        self.outcome.signals[moment.signal.name] += 1
        self.outcome.places[place(found, snapshot(here), self.phase.done)] += 1
        return True

    @contextmanager
    def _copy(self, name: str) -> Iterator[Path]:
        """What was prepared, in a directory that stays where something is wrong."""
        here = self.directory / name
        shutil.copytree(self.directory / "prepared", here)
        yield here
        shutil.rmtree(here)


def _stop(running: BaseProcess, moment: Moment, here: Path) -> None:
    left_over = being_written(here)
    running.join(moment.seconds)
    while moment.at_a_write and running.exitcode is None and not being_written(here) - left_over:
        running.join(0.001)
    if running.exitcode is None and running.pid is not None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(running.pid, moment.signal)


def _wait(running: BaseProcess) -> int | None:
    """The exit code; None where it hangs, which is ended."""
    running.join(_LONGEST_SECONDS)
    code = running.exitcode
    running.kill()
    return code


def _check_end(here: Path, code: int | None) -> None:
    if code != 0:
        how = "hangs" if code is None else f"ends with {code}"
        raise TrialError(f"{here}: the command {how}: {process.output(here)}")


def _check_same(here: Path, expected: dict[str, str]) -> None:
    if wrong := differences(expected, artefacts(here)):
        raise TrialError(f"{here}: {'; '.join(wrong)}")
