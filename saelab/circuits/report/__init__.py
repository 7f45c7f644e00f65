"""An experiment on circuits as one HTML page that needs nothing else, and in pieces."""

from saelab.circuits.report.page import of_findings, style, summary

__all__ = ["of_findings", "style", "summary"]
