"""Charts of an experiment: how methods rank heads, what they cost, and what circuits of growing size keep."""

from __future__ import annotations

import numpy as np

from saelab.circuits.faithfulness import Curve
from saelab.circuits.findings import Findings
from saelab.circuits.ranking import roc
from saelab.evals.base import Chart

_GRID = np.linspace(0, 1, 41)
"""False positive rates at which curves of several seeds are averaged."""
KINDS = {"strength": "strongest first", "signed": "most helpful first"}
"""Orders in which heads are taken, in words."""
_BAND = (0.05, 0.95)
"""Of random orders: one of them now and then begins with a head that matters, so that the most of many says little."""
KEPT, LEFT, RANDOM = "kept by the circuit", "left without it", "random circuits"

Points = list[list[float | str]]


def aucs(found: Findings) -> Chart:
    """A row for each method, a dot for each truth."""
    series: dict[str, Points] = {}
    for name in found.truths:
        rows: Points = []
        for row in found.rows:
            if spread := row.auc[name]:
                ends = [spread.low, spread.high] if len(spread.values) > 1 else []
                rows.append([row.label, spread.mean, *ends])
        if rows:
            series[truth_name(name)] = rows
    several = "one standard deviation" if found.seeds > 2 else "both of them"
    caption = f"Mean over {found.seeds} seeds, and {several}." if found.seeds > 1 else ""
    return Chart("Area under the ROC curve", "method", "AUC", series, "bars", caption=caption)


def seconds(found: Findings) -> Chart:
    rows: Points = [[row.label, row.seconds] for row in found.rows if row.seconds > 0]
    return Chart(
        "What it takes",
        "method",
        "seconds",
        {"seconds": rows} if rows else {},
        "bars",
        log_y=True,
        caption="On the clock, the passes of the language model included; mean over seeds. The machine had other work "
        "besides, if it had.",
    )


def rocs(found: Findings, name: str) -> Chart:
    """Against one truth, a curve for each method; mean over seeds."""
    known = found.truths[name].members.flatten().numpy()
    series: dict[str, Points] = {}
    if 0 < known.sum() < known.size:
        for row in found.rows:
            curves = [
                roc(scores.strength.flatten().double().numpy(), known) for scores in found.methods[row.label].scores
            ]
            heights = np.mean([np.interp(_GRID, *np.array(curve).T) for curve in curves], axis=0)
            series[row.label] = [[0.0, 0.0], *([float(x), float(y)] for x, y in zip(_GRID, heights, strict=True))]
    return Chart(
        truth_name(name),
        "share of other heads taken for the circuit's",
        "share of the circuit found",
        series,
        caption=f"{int(known.sum())} of {known.size} heads are in the circuit: {found.truths[name].source}.",
    )


def kept(found: Findings, label: str, kind: str) -> Chart:
    """What circuits of one method keep, what is left without them, and random ones."""
    curve = found.curves[label][kind]
    series = {KEPT: _faithful(curve)}
    if curve.completeness:
        series[LEFT] = [[size, left] for size, left in _sized(curve.sizes, curve.completeness)]
    if band := random_band(found):
        series[RANDOM] = band
    return Chart(
        f"{label}, {KINDS.get(kind, kind)}",
        "heads in the circuit",
        "share of the effect",
        {name: points for name, points in series.items() if points},
        log_x=True,
        caption=f"CPR {curve.cpr:.3f}, CMD {curve.cmd:.3f}.",
    )


def all_kept(found: Findings, kind: str) -> Chart:
    """What circuits keep, all methods together, and random ones."""
    series = {label: [p[:2] for p in _faithful(kinds[kind])] for label, kinds in found.curves.items() if kind in kinds}
    if series and (band := random_band(found)):
        series[RANDOM] = band
    return Chart(
        f"All of them, {KINDS.get(kind, kind)}", "heads in the circuit", "share of the effect kept", series, log_x=True
    )


def random_band(found: Findings) -> Points:
    """By size: the mean of random orders, and between what 90 % of them lie."""
    by_size: dict[int, list[float]] = {}
    for curve in found.random:
        for size, value in _sized(curve.sizes, curve.faithfulness):
            by_size.setdefault(size, []).append(value)
    return [[size, float(np.mean(own)), *map(float, np.quantile(own, _BAND))] for size, own in sorted(by_size.items())]


def truth_name(name: str) -> str:
    """A cut-off as "at least 2 % of the effect"; a paper as it is called."""
    short = short_name(name)
    return name if short == name else f"at least {short.removeprefix('≥ ')} of the effect"


def short_name(name: str) -> str:
    """A cut-off as "≥ 2 %"."""
    try:
        return f"≥ {100 * float(name):g} %"
    except ValueError:
        return name


def _faithful(curve: Curve) -> Points:
    ends = dict(zip(curve.sizes, curve.intervals, strict=True))
    return [[size, value, *(ends[size] or ())] for size, value in _sized(curve.sizes, curve.faithfulness)]


def _sized(sizes: tuple[int, ...], values: tuple[float, ...]) -> list[tuple[int, float]]:
    """Each size once; the empty circuit, which keeps nothing by definition, is left out."""
    return [(size, value) for size, value in dict(zip(sizes, values, strict=True)).items() if size]
