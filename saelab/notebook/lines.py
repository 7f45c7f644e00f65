"""How far something is, in a few lines of a notebook that are written anew; what is stored is how it ended."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saelab.cli.console import Pace, Reporter, Stage, console
from saelab.evals.report.words import duration

_EVERY_SECONDS = 0.5

warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, without the widgets that nothing here needs


class Place:
    """Where text stands that is written anew; nowhere, where there is no notebook."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        if not in_notebook():
            return
        from IPython.display import display

        bundle = {"text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class Line:
    """How far one piece of work is."""

    def __init__(self, what: str, show: Callable[[str], None]):
        self.what, self._show = what, show
        self._pace, self._said = Pace(), 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units are done."""
        now, seconds = time.perf_counter(), self._pace.left(done, total)
        if now - self._said < _EVERY_SECONDS and done < total:
            return
        self._said = now
        left = "" if seconds is None else f", {duration(seconds)} left"
        how_far = f"{done:,} of {total:,}{left}" if done < total else f"done in {duration(self._pace.spent)}"
        self._show(f"{self.what}: {how_far}  {note}".rstrip())


def progress(what: str) -> Callable[[int, int], None]:
    """What a method of `saelab.circuits` takes as `report`."""
    return Line(what, Place().show)


@contextmanager
def stages(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """What takes (stage, done, total), as `saelab.circuits.run` does."""
    place, lines, pace = Place(), dict[str, Line](), Pace()

    def tell(stage: str, done: int, total: int) -> None:
        lines.setdefault(stage, Line(f"{what}: {stage}", place.show))(done, total)

    yield tell
    place.show(f"{what}: done in {duration(pace.spent)}")


class Lines(Reporter):
    """What `saelab run` says, in a notebook: what is done, and below it what is under way."""

    def __init__(self) -> None:
        super().__init__(console())
        self._place, self._done = Place(), list[str]()

    def say(self, text: str, *, style: str | None = None) -> None:
        if not in_notebook():
            super().say(text, style=style)
            return
        self._done.append(text.partition(" -> ")[0].replace(str(Path.home()), "~"))
        self.keep(text)
        self.show("")

    def show(self, now: str) -> None:
        self._place.show("\n".join([*self._done, now]).rstrip("\n"))

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        if in_notebook():
            yield _Shown(self, name, total)
            self.show("")
            return
        with super().stage(name, total) as found:
            yield found


class _Shown(Stage):
    def __init__(self, reporter: Lines, name: str, total: int):
        super().__init__(reporter, name, total, None)
        self._line = Line(name, reporter.show)

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        self.total = total or self.total
        self._line(done, self.total, note)


def in_notebook() -> bool:
    """Whether a kernel of Jupyter is at work here."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
