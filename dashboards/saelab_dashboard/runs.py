"""How runs went, or are going, and the comparisons of which they are members."""

from __future__ import annotations

import threading
from pathlib import Path

import altair as alt
import pandas as pd
import streamlit as st

from saelab.features import render
from saelab.training.curves import Curve, Curves
from saelab.training.run_directory import RunDirectory
from saelab_dashboard import comparisons, links, models, session, states
from saelab_dashboard.tables import cell, head, table

_MOST_RUNS, _MOST_METRICS = 8, 6
_USUAL = ("losses/total", "heldout/fvu", "metrics/l0", "metrics/dead_latents")
_LIVE_SECONDS = 3


def show() -> None:
    """The page."""
    run = session.chosen()
    st.html("<h1>Runs</h1>")
    names = st.multiselect(
        "Runs shown", list(session.served()), [run.name], max_selections=_MOST_RUNS, key=f"runs beside {run.name}"
    )
    if names:
        _curves(names)
    else:
        st.caption("Choose a run.")
    comparisons.show()


def _curves(names: list[str]) -> None:
    runs = _directories(names)
    known = sorted({metric for name, run in runs.items() for metric in _read(name, run)})
    columns = st.columns([3, 1, 1], vertical_alignment="bottom")
    usual = [name for name in _USUAL if name in known] or known[:1]
    metrics = columns[0].multiselect("Metrics", known, usual, max_selections=_MOST_METRICS, key=f"metrics of {known}")
    log_x = columns[1].toggle("Logarithmic steps", key="runs log x")
    log_y = columns[2].toggle("Logarithmic values", key="runs log y")
    every = _LIVE_SECONDS if any(map(_unfinished, runs.values())) else None
    st.fragment(_drawn, run_every=every)(names, metrics, log_x, log_y, every is not None)


def _drawn(names: list[str], metrics: list[str], log_x: bool, log_y: bool, live: bool) -> None:
    """The curves as they are now; drawn again and again while a run is training."""
    runs = _directories(names)
    if live and not any(map(_unfinished, runs.values())):
        st.rerun()
    _say_how_far(runs)
    found = {name: _read(name, run) for name, run in runs.items()}
    if not any(found.values()):
        states.box("info", "Nothing has been logged yet", "Curves appear here with the first line of metrics.jsonl.")
        return
    for start in range(0, len(metrics), 2):
        for column, metric in zip(st.columns(2), metrics[start : start + 2], strict=False):
            curves = {name: curves[metric] for name, curves in found.items() if metric in curves}
            if curves:
                column.altair_chart(_chart(metric, curves, log_x, log_y), width="stretch")
    st.html(_newest(found, metrics))


def _directories(names: list[str]) -> dict[str, RunDirectory]:
    """Those that are still there. (Their indexes are not opened.)"""
    return {name: RunDirectory(path) for name, path in session.served().items() if name in names}


def _say_how_far(runs: dict[str, RunDirectory]) -> None:
    for name, run in runs.items():
        if why := models.failure(run):
            states.box("error", f"{render.text(name)} failed", render.text(why))
        elif _unfinished(run):
            said = f"{render.text(name)} is training, or was stopped; this page follows it."
            st.html(f'<p class="sl-dim" role="status">{said}</p>')


def _unfinished(run: RunDirectory) -> bool:
    return not run.finished and models.failure(run) is None


def _chart(metric: str, curves: dict[str, Curve], log_x: bool, log_y: bool) -> alt.Chart:
    rows = [
        {"run": render.shown(name), "step": step, "value": value}
        for name, curve in curves.items()
        for step, value in curve.points()
        if (value > 0 or not log_y) and (step > 0 or not log_x)
    ]
    ends = "; ".join(f"{render.shown(name)} ends at {_value(curve)}" for name, curve in curves.items())
    scale = {True: alt.Scale(type="log"), False: alt.Scale(zero=False)}
    by_run = {"title": None, "legend": alt.Legend(orient="bottom", labelLimit=300) if len(curves) > 1 else None}
    return (
        alt.Chart(pd.DataFrame(rows, columns=["run", "step", "value"]), title=render.shown(metric), height=240)
        .mark_line(point={"size": 14} if len(rows) < 200 else False)
        .encode(
            x=alt.X("step", type="quantitative", scale=scale[log_x], title="step", axis=alt.Axis(format=",~r")),
            y=alt.Y("value", type="quantitative", scale=scale[log_y], title=None, axis=alt.Axis(format=",~r")),
            color=alt.Color("run", type="nominal", **by_run),
            strokeDash=alt.StrokeDash("run", type="nominal", **by_run),
            tooltip=["run", "step", alt.Tooltip("value", type="quantitative", format=".4g")],
        )
        .properties(description=f"{render.shown(metric)} over training steps: {ends}")
    )


def _newest(found: dict[str, dict[str, Curve]], metrics: list[str]) -> str:
    """The last value of every curve, as text."""
    heads = [head("run"), head("step", number=True), *(head(render.text(name), number=True) for name in metrics)]
    rows = (
        [
            head(links.anchor(render.text(name), "overview", name), row=True),
            cell(_step(curves), number=True),
            *(cell(_value(curves.get(metric)), number=True) for metric in metrics),
        ]
        for name, curves in found.items()
    )
    return f"<h2>Newest values</h2>{table('newest values', heads, rows)}"


def _step(curves: dict[str, Curve]) -> str:
    return f"{max((curve.newest[0] for curve in curves.values() if curve.newest), default=0):,}"


def _value(curve: Curve | None) -> str:
    return "–" if curve is None or curve.newest is None else render.number(curve.newest[1])


def _read(name: str, run: RunDirectory) -> dict[str, Curve]:
    """What a run has logged so far."""
    curves, lock = _open_curves(str(run.metrics))
    with lock:
        try:
            curves.read_on()
        except OSError as error:
            states.box("warning", f"{render.text(name)}: its metrics cannot be read", render.text(str(error)))
        return dict(curves.by_name)


@st.cache_resource(max_entries=64, show_spinner=False)
def _open_curves(path: str) -> tuple[Curves, threading.Lock]:
    return Curves(Path(path)), threading.Lock()
