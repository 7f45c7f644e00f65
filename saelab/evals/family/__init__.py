"""Variants side by side: the table, how it is written down, and its plot."""

from saelab.evals.family.render import csv, document, markdown, terminal, write
from saelab.evals.family.table import METRICS, Comparison, FamilyTable, Reference, Row, Spread

__all__ = [
    "METRICS",
    "Comparison",
    "FamilyTable",
    "Reference",
    "Row",
    "Spread",
    "csv",
    "document",
    "markdown",
    "terminal",
    "write",
]
