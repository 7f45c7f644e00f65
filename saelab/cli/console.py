"""What a person sees while something runs: one bar, live numbers, time left; a log file besides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PIPE_WIDTH = 160
_PLAIN_EVERY_SECONDS = 10.0
"""Where output is no terminal, a progress line this often."""


def console(*, stderr: bool = False) -> Console:
    """A terminal as wide as it is; a file or a pipe as wide as it takes."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=_PIPE_WIDTH)


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error, and what moves it: units done, all of them, a note."""
    with Reporter(Console(stderr=True)).stage(name, 1) as stage:
        yield lambda done, total, note: stage.update(done, note, total)


class Pace:
    """How long work takes that begins now, of which some may have been done before."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first: int | None = None

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._started

    def left(self, done: int, total: int) -> float | None:
        """Seconds, by what was gained since the first call; None where nothing was."""
        self._first = done if self._first is None else self._first
        gained = done - self._first
        return self.spent / gained * (total - done) if gained > 0 else None


class Stage:
    """One long-running piece of work, `total` units long."""

    def __init__(self, reporter: Reporter, name: str, total: int, bar: Progress | None):
        self.reporter, self.name, self.total, self.bar = reporter, name, total, bar
        self.task = bar.add_task(escape(name), total=total, note="") if bar else None
        self.printed, self.pace = time.perf_counter(), Pace()

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """`done` units are done; `note` is shown beside the bar."""
        self.total = total or self.total
        left = self.pace.left(done, self.total)
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, total=self.total, note=escape(note))
            return
        now = time.perf_counter()
        if now - self.printed >= _PLAIN_EVERY_SECONDS:
            self.printed = now
            shown = "" if left is None else f", {left:.0f} s left"
            self.reporter.say(f"{self.name}: {done:,}/{self.total:,}{shown}  {note}".rstrip())


class Reporter:
    """Prints to `console` and, once `log_to` is called, to a run's log as well."""

    def __init__(self, console: Console):
        self.console = console
        self.log: Path | None = None
        self._early: list[str] = []
        self._complained = False

    def log_to(self, path: Path) -> None:
        self.log = path
        for line in self._early:
            self._write(line)
        self._early.clear()

    def say(self, text: str, *, style: str | None = None) -> None:
        self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)
        self.keep(text)

    def keep(self, text: str) -> None:
        """Write it to the log alone."""
        stamped = f"{datetime.now().isoformat(timespec='seconds')} {text}"
        self._write(stamped) if self.log else self._early.append(stamped)

    def _write(self, line: str) -> None:
        """A log that cannot be written (a full disk) stops nothing: that is said once."""
        assert self.log is not None
        try:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(line + "\n")
        except OSError as error:
            if not self._complained:
                self._complained = True
                said = f"note       {self.log} cannot be written ({error.strerror}): it lacks lines from here on"
                self.console.print(escape(said), highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A bar on a terminal, a line now and then elsewhere."""
        if not self.console.is_terminal:
            yield Stage(self, name, total, None)
            return
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        with Progress(*columns, console=self.console) as bar:
            yield Stage(self, name, total, bar)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int], None]]:
        """What takes (stage, done, total): each stage has a bar, and a time left, of its own."""
        with ExitStack() as running:
            current: list[Stage] = []

            def update(name: str, done: int, total: int) -> None:
                if not current or current[0].name != name:
                    running.close()
                    current[:] = [running.enter_context(self.stage(name, total))]
                current[0].update(done, total=total)

            yield update
