"""An experiment on circuits as one HTML page that needs nothing else."""

from saelab.circuits.report.page import of_findings

__all__ = ["of_findings"]
