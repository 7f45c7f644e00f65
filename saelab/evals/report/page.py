"""The page of a run, or of several beside each other."""

from __future__ import annotations

from saelab.evals.report import many, one
from saelab.evals.report.frame import frame
from saelab.evals.report.many import Comparison
from saelab.evals.report.run import Run

_FOOTER = "Intervals are 95 % ones; ~ marks what training found on few tokens."


def of_run(run: Run) -> str:
    """The page of one run."""
    return frame(_title(run.name), one.header(run), one.sections(run), footer=_FOOTER)


def of_comparison(found: Comparison) -> str:
    """The page of several runs."""
    return frame(_title(found.name), many.header(found), many.sections(found), above=many.key(found), footer=_FOOTER)


def _title(name: str) -> str:
    return f"{name} · saelab report"
