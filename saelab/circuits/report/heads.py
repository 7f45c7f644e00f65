"""Sections on heads: the circuits of methods beside what counts as the circuit, and a map of every method's scores."""

from __future__ import annotations

import re

from torch import Tensor

from saelab.circuits.findings import Findings, Found
from saelab.circuits.report import figures, heat
from saelab.circuits.report.drawing import draw
from saelab.circuits.report.table import Cell, rounded
from saelab.circuits.scores import METHODS, ranks, strength, strongest
from saelab.evals.base import Table
from saelab.evals.report.pieces import details, framed, gallery, grid, paragraph
from saelab.evals.report.words import count, said

_LISTED = 30
"""Heads that are listed below a map."""


def circuits(found: Findings) -> str:
    """The circuit of the method that is chosen beside the ground truth; those of methods that have edges, or whose
    faithfulness is measured."""
    if found.shown is None:
        return f'<div class="circuit">{truth(found)}</div>'
    chosen, size = found.shown
    with_edges = [label for label, one in found.methods.items() if one.edges]
    drawn = [circuit(found, label) for label in dict.fromkeys([chosen, *found.curves, *with_edges])]
    told = (
        f"The {count(size, 'head')} that a method holds for the strongest, with its first seed, and MLPs that it holds "
        "for as strong, where it scores them. A thick frame is the ground truth's. Lines are the method's strongest "
        "edges (dashed where they hurt) or, where it has none, what heads read from the residual stream and add to it."
    )
    first = f'<div class="beside">{drawn[0]}{truth(found)}</div>'
    one_by_one = details(f"The {count(size, 'head')} of {chosen}", f'<div class="table">{listed(found, chosen)}</div>')
    more = details(count(len(drawn) - 1, "other method"), gallery(drawn[1:], pairs=False)) if drawn[1:] else ""
    return f'{paragraph(told, "dim")}<div class="circuit">{first}{one_by_one}{more}</div>'


def circuit(found: Findings, label: str) -> str:
    """A method's, drawn."""
    return framed(label, f"{colours(found.methods[label])} {keeps(found, label)}".strip(), draw(found, label))


def colours(one: Found) -> str:
    """What the colours of a method's heads say."""
    if one.signed:
        return "Orange helps, blue hurts."
    return "The stronger the orange, the more a head matters; the method does not say whether it helps or hurts."


def keeps(found: Findings, label: str) -> str:
    """What a circuit of about the size shown keeps, where that is measured."""
    curve = found.curves.get(label, {}).get("strength")
    if curve is None or found.shown is None:
        return ""
    size = found.shown[1]
    near = min(range(len(curve.sizes)), key=lambda i: abs(curve.sizes[i] - size))
    return (
        f"Alone, its {count(curve.sizes[near], 'strongest head')} keep {curve.faithfulness[near]:.0%} of the effect, "
        f"all other heads carrying {curve.ablation} activations."
    )


def listed(found: Findings, label: str) -> str:
    """The heads of a method's circuit."""
    scores, known = found.methods[label].scores[0].heads, found.truth
    cells: list[list[Cell]] = [
        [
            f"{layer}.{head}",
            rounded(float(scores[layer, head])),
            None if known.effects is None else rounded(float(known.effects[layer, head])),
            _yes(known.members[layer, head]),
        ]
        for layer, head in found.circuit(label)
    ]
    columns = ["head", "score", "effect of exact patching", "in the ground truth"]
    return grid(Table("", columns, cells), label=f"Heads of {label}")


def truth(found: Findings) -> str:
    """What counts as the circuit, by every definition, and the effects it is read from."""
    names: list[list[Cell]] = [
        [figures.short_name(name), one.source, float(one.members.sum())] for name, one in found.truths.items()
    ]
    shown = (
        f'<div class="table names">{grid(Table("", ["name", "source", "heads"], names), label="Ground truths")}</div>'
    )
    return f'<div class="stack">{effects(found)}{shown}</div>'


def effects(found: Findings) -> str:
    """A heat map of the effects that the ground truth is read from; nothing where it is not read from any."""
    known = found.truth.effects
    if known is None:
        return ""

    def tell(layer: int, head: int) -> str:
        share = said(100 * float(known[layer, head]), 3)
        return f"{layer}.{head}: {share} % of the effect{_inside(found, layer, head)}"

    title = "Effects of exact patching"
    caption = (
        "By how much the score falls where a head carries what it carries in the corrupted prompt, as a share of what "
        "corrupting the whole prompt costs. Framed: in the ground truth."
    )
    drawn = heat.heat(title, known, tell, inside=found.truth.members) + _strongest(found, title, known, signed=True)
    return framed(title, caption, drawn)


def maps(found: Findings) -> str:
    """A heat map for each method."""
    told = "Mean over seeds; each map has a scale of its own. Framed heads are in the ground truth."
    return paragraph(told, "dim") + gallery([scores(found, row.label) for row in found.rows], pairs=False)


def scores(found: Findings, label: str) -> str:
    """A heat map of what a method says of every head."""
    one = found.methods[label]
    values, numbers = one.mean, ranks(one.strength)

    def tell(layer: int, head: int) -> str:
        score = said(float(values[layer, head]), 3)
        return f"{layer}.{head}: {score}, number {int(numbers[layer, head])}{_inside(found, layer, head)}"

    drawn = heat.heat(f"Scores of {one.label}", values, tell, inside=found.truth.members, signed=one.signed)
    return framed(one.label, about(one), drawn + _strongest(found, one.label, values, signed=one.signed))


def about(one: Found) -> str:
    """What the method is, in its own words."""
    method = one.scores[0].method
    if method not in METHODS:
        return ""
    whole = (METHODS[method].__doc__ or "").split("\n\n")[0].replace("`", "").replace(" . ", " · ")
    sentence = re.split(r"(?<=\w)\. (?=[A-Z])", " ".join(whole.split()))[0].rstrip(".") + "."
    return sentence[:1].upper() + sentence[1:]


def _strongest(found: Findings, label: str, values: Tensor, *, signed: bool) -> str:
    """The text of a map."""
    cells: list[list[Cell]] = [
        [f"{layer}.{head}", rounded(float(values[layer, head])), _yes(found.truth.members[layer, head])]
        for layer, head in strongest(strength(values, signed=signed), _LISTED)
    ]
    shown = grid(Table("", ["head", "value", "in the ground truth"], cells), label=f"Strongest heads: {label}")
    return details(f"The {len(cells)} strongest", shown)


def _inside(found: Findings, layer: int, head: int) -> str:
    return "; in the ground truth" if found.truth.members[layer, head] else ""


def _yes(member: Tensor) -> str:
    return "yes" if bool(member) else "no"
