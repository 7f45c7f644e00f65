"""What was trained and how it did, as one HTML page that needs nothing else: of a run, or of several side by side."""

from saelab.evals.report.compared import Member
from saelab.evals.report.many import Comparison
from saelab.evals.report.page import of_comparison, of_run
from saelab.evals.report.run import Run, read

__all__ = ["Comparison", "Member", "Run", "of_comparison", "of_run", "read"]
