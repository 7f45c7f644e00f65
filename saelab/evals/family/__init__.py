"""Variants side by side: the table, how it is written down, and its plot."""

from saelab.evals.family.read import read
from saelab.evals.family.render import COLUMNS, FILE, cells, csv, document, markdown, notes, terminal, write
from saelab.evals.family.table import METRICS, Comparison, FamilyTable, Reference, Row, Spread, said_of_spread

__all__ = [
    "COLUMNS",
    "FILE",
    "METRICS",
    "Comparison",
    "FamilyTable",
    "Reference",
    "Row",
    "Spread",
    "cells",
    "csv",
    "document",
    "markdown",
    "notes",
    "read",
    "said_of_spread",
    "terminal",
    "write",
]
