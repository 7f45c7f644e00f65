"""Sections on what methods are worth: their table, ROC curves, what circuits keep, heads ablated together."""

from __future__ import annotations

import numpy as np

from saelab.circuits.findings import Findings
from saelab.circuits.report import figures
from saelab.circuits.report.table import Cell, method_table, rounded
from saelab.circuits.together import Together
from saelab.evals.base import Table
from saelab.evals.report.marks import Point
from saelab.evals.report.pieces import figure, framed, gallery, grid, legend, paragraph
from saelab.evals.report.rows import Dot, rows
from saelab.evals.report.words import count, said

_GREY = 8
"""The look of what is compared with."""
KEPT = {figures.KEPT: 0, figures.LEFT: 1, figures.RANDOM: _GREY}
"""The looks of what circuits keep."""


def methods(found: Findings) -> str:
    shown = method_table(found)
    drawn = gallery([figure(figures.aucs(found)), figure(figures.seconds(found))])
    return f'{paragraph(shown.caption, "dim")}<div class="table names">{grid(shown, label=shown.title)}</div>{drawn}'


def rocs(found: Findings) -> str:
    """A picture for each truth, with one legend."""
    numbers = {row.label: number for number, row in enumerate(found.rows)}
    drawn = [figure(figures.rocs(found, name), numbers, key=False, values=False) for name in found.truths]
    return legend(numbers) + gallery(drawn)


def faithfulness(found: Findings) -> str:
    """What circuits of growing size keep, all methods together and one by one."""
    if not found.curves:
        return ""
    prompts = found.curve_prompts
    unseen = f", on {count(prompts, 'prompt')} of templates that no method saw" if prompts else ""
    told = (
        f"All heads outside a circuit carry {found.ablation} activations{unseen}; MLPs answer to what the heads say. "
        "1 is the whole model, 0 the model with all heads ablated. What is left without a circuit should be near 0. "
        f"Bands: 95 % over prompts; of random circuits, 90 % of {len(found.random)}."
    )
    single = [one for label in found.curves for one in curves_of(found, label)]
    overview = gallery(all_curves(found))
    return f'{paragraph(told, "dim")}{overview}<div class="table">{_areas(found)}</div>{gallery(single)}'


def all_curves(found: Findings) -> list[str]:
    """A figure for each order in which heads are taken, with all methods."""
    looks = {label: n + (n >= _GREY) for n, label in enumerate(found.curves)} | {figures.RANDOM: _GREY}
    kinds = dict.fromkeys(kind for kinds in found.curves.values() for kind in kinds)
    return [figure(figures.all_kept(found, kind), looks) for kind in kinds]


def curves_of(found: Findings, label: str) -> list[str]:
    """A figure for each order, of one method."""
    return [figure(figures.kept(found, label, kind), KEPT) for kind in found.curves.get(label, ())]


def _areas(found: Findings) -> str:
    """MIB's two numbers."""
    cells: list[list[Cell]] = [
        [label, figures.KINDS.get(kind, kind), rounded(curve.cpr), rounded(curve.cmd)]
        for label, kinds in found.curves.items()
        for kind, curve in kinds.items()
    ]
    if found.random:
        means = [rounded(float(np.mean([getattr(curve, key) for curve in found.random]))) for key in ("cpr", "cmd")]
        cells.append([figures.RANDOM, f"mean of {len(found.random)}", *means])
    columns = ["method", "heads", "CPR (higher is better)", "CMD (lower is better)"]
    return grid(Table("", columns, cells), label="CPR and CMD")


def together(found: Findings) -> str:
    """Heads ablated at once, beside sets that are like them."""
    if found.together is None:
        return ""
    title, caption, drawn = drawn_together(found.together)
    return gallery([framed(title, caption, drawn)], pairs=False)


def drawn_together(known: Together) -> tuple[str, str, str]:
    """A title, what is to be seen in words, and the picture."""
    named = ", ".join(f"{layer}.{head}" for layer, head in known.heads)
    title = f"The {len(known.heads)} heads whose patching loses most, ablated together"
    as_much = sum(loss >= known.loss for loss in known.matched)
    caption = (
        f"{named}: {known.ablation} activations in their place cost {said(known.loss, 3)} of the score. Of "
        f"{count(len(known.matched), 'set')} of as many other heads, alike in layer and in how much they write, "
        f"{as_much or 'none'} cost{'' if as_much > 1 else 's'} as much."
    )
    dots = {
        "these heads": [Dot(0, Point(named, known.loss), f"{named}: {said(known.loss, 3)}")],
        "matched sets": [
            Dot(_GREY, Point("", loss), f"a matched set: {said(loss, 3)}")
            for loss in sorted(known.matched, reverse=True)
        ],
    }
    shown = {name: row for name, row in dots.items() if row}
    return title, caption, rows(caption, shown, "loss of score", mark=0.0)
