"""The table of methods, as it stands on the page, in the terminal and in the browser."""

from __future__ import annotations

from saelab.circuits.findings import Findings
from saelab.circuits.report.figures import short_name
from saelab.circuits.table import Row
from saelab.evals.base import Table
from saelab.evals.family import Spread
from saelab.evals.report.words import DASH

Cell = str | float | None


def method_table(found: Findings) -> Table:
    """A row for each method, the best first."""
    columns = ["method", *(f"AUC, {short_name(name)}" for name in found.truths)]
    columns += ["average precision", "rank correlation", "prompts", "seconds"]
    caption = (
        "AUC: probability that a head of the circuit scores above another one; in the circuit are heads whose exact "
        "patching costs at least so much of the effect. Average precision: mean precision at the circuit's heads. Rank "
        "correlation: Spearman's, of strengths with the absolute effects of exact patching. Prompts: clean and "
        "corrupted ones that a method saw. Average precision and the order of rows are by "
        f"{short_name(next(iter(found.truths)))}."
    )
    return Table("Methods", columns, [_row(found, row) for row in found.rows], caption)


def _row(found: Findings, row: Row) -> list[Cell]:
    aucs = [spread(row.auc[name]) for name in found.truths]
    others = [spread(row.average_precision), spread(row.rank_correlation)]
    return [row.label, *aucs, *others, float(row.prompts), rounded(row.seconds)]


def spread(found: Spread | None) -> str:
    """`0.985 ± 0.004`; of one seed the number alone; a dash where there is none."""
    if found is None:
        return DASH
    shown = f"{found.mean:.3f}".replace("-", "−")
    return f"{shown} ± {found.around:.3f}" if len(found.values) > 1 else shown


def rounded(value: float) -> float:
    """To three digits."""
    return float(f"{value:.3g}")
