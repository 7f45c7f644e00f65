"""How training went: its curves, for one run or for several."""

from __future__ import annotations

from collections.abc import Mapping

from saelab.evals.base import Chart
from saelab.evals.report.pieces import figure
from saelab.evals.report.run import Run
from saelab.training.curves import Curve

_POINTS = 200
"""A curve is drawn with about so many."""
_WIDE = 20.0
"""From this ratio of the largest value to the smallest on, an axis is logarithmic."""
_TERM, _TOTAL = "losses/", "losses/total"

Sources = Mapping[str, tuple[Run, str]]
"""By the name of a series: whose curve, and of which metric."""


def of_one(run: Run) -> list[str]:
    """Figures of a run."""
    return [figure(chart, values=False) for chart in charts_of_one(run)]


def charts_of_one(run: Run) -> list[Chart]:
    """Losses, L0, held-out FVU, dead latents; those that were logged."""
    terms = [name for name in run.curves if name.startswith(_TERM) and name != _TOTAL]
    charts = [
        _chart("Loss", "loss", {"total": (run, _TOTAL)}, "What is minimised."),
        _chart(
            "Terms of the loss",
            "loss",
            {name.removeprefix(_TERM): (run, name) for name in terms if len(terms) > 1},
            "Each before it is weighted.",
        ),
        _chart(
            "Active latents in training",
            "L0",
            {"training batches": (run, "metrics/l0"), "held-out tokens": (run, "heldout/l0")},
            "Latents active per token, in the form that is trained.",
        ),
        _chart(
            "Held-out FVU in training",
            "FVU",
            {"held-out tokens": (run, "heldout/fvu")},
            "Share of variance not reconstructed, in the form that is trained.",
        ),
        _chart(
            "Dead latents in training",
            "latents",
            {"dead": (run, "metrics/dead_latents")},
            "Latents that have not fired for long (train.dead_after_tokens).",
        ),
    ]
    return [chart for chart in charts if chart.series]


def of_several(runs: Mapping[str, Run], numbers: Mapping[str, int]) -> list[str]:
    """The same quantities, each with a curve for every run; losses of different variants do not compare."""
    charts = [
        _chart(title, y, {name: (run, metric) for name, run in runs.items()}, caption)
        for title, y, metric, caption in (
            ("Held-out FVU in training", "FVU", "heldout/fvu", "In the form that is trained."),
            ("Active latents in training", "L0", "metrics/l0", "Latents active per token, on training batches."),
            ("Explained variance in training", "1 - FVU", "metrics/explained_variance", "On training batches."),
            ("Dead latents in training", "latents", "metrics/dead_latents", "Those that have not fired for long."),
        )
    ]
    return [figure(chart, numbers, key=False, values=False) for chart in charts if chart.series]


def _chart(title: str, y: str, sources: Sources, caption: str) -> Chart:
    series = {
        name: _points(run.curves[metric], run.tokens_per_step)
        for name, (run, metric) in sources.items()
        if metric in run.curves
    }
    heights = [float(point[1]) for points in series.values() for point in points]
    log = bool(heights) and min(heights) > 0 and max(heights) / min(heights) > _WIDE
    return Chart(title, "tokens", y, series, log_y=log, caption=caption)


def _points(curve: Curve, tokens_per_step: float) -> list[list[float | str]]:
    """Every so many steps, and the last."""
    known = curve.points()
    step = max(1, len(known) // _POINTS)
    return [[tokens_per_step * at, value] for at, value in [*known[:-1:step], *known[-1:]]]
