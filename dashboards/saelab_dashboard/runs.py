"""How runs went, or are going, and the comparisons of which they are members."""

from __future__ import annotations

import threading
from pathlib import Path

import altair as alt
import pandas as pd
import streamlit as st

from saelab.features import render
from saelab.training.curves import Curve, Curves
from saelab_dashboard import comparisons, links, session, states
from saelab_dashboard.session import OpenRun
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
        _curves([session.open_run(name) for name in names])
    else:
        st.caption("Choose a run.")
    comparisons.show()


# -- curves -------------------------------------------------------------------------------------------


def _curves(runs: list[OpenRun]) -> None:
    known = sorted({name for run in runs for name in _read(run)})
    columns = st.columns([3, 1, 1], vertical_alignment="bottom")
    usual = [name for name in _USUAL if name in known] or known[:1]
    metrics = columns[0].multiselect("Metrics", known, usual, max_selections=_MOST_METRICS, key=f"metrics of {known}")
    log_x = columns[1].toggle("Logarithmic steps", key="runs log x")
    log_y = columns[2].toggle("Logarithmic values", key="runs log y")
    live = any(map(_unfinished, runs))
    every = _LIVE_SECONDS if live else None
    st.fragment(_drawn, run_every=every)([run.name for run in runs], metrics, log_x, log_y, live)


def _drawn(names: list[str], metrics: list[str], log_x: bool, log_y: bool, live: bool) -> None:
    """The curves as they are now; drawn again and again while a run is training."""
    runs = [session.open_run(name) for name in names if name in session.served()]
    if live and not any(map(_unfinished, runs)):
        st.rerun()
    _say_how_far(runs)
    found = {run.name: _read(run) for run in runs}
    if not any(found.values()):
        states.box("info", "Nothing has been logged yet", "Curves appear here with the first line of metrics.jsonl.")
        return
    for start in range(0, len(metrics), 2):
        for column, metric in zip(st.columns(2), metrics[start : start + 2], strict=False):
            curves = {name: curves[metric] for name, curves in found.items() if metric in curves}
            if curves:
                column.altair_chart(_chart(metric, curves, log_x, log_y), width="stretch")
    st.html(_newest(found, metrics))


def _say_how_far(runs: list[OpenRun]) -> None:
    for run in runs:
        if run.directory.failure:
            states.box("error", f"{render.text(run.name)} failed", render.text(run.directory.failure))
        elif _unfinished(run):
            standing = f"{render.text(run.name)}: {render.text(run.record.standing)}; this page follows it."
            st.html(f'<p class="sl-dim" role="status">{standing}</p>')


def _unfinished(run: OpenRun) -> bool:
    return not run.directory.finished and run.directory.failure is None


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


def _read(run: OpenRun) -> dict[str, Curve]:
    """What a run has logged so far."""
    curves, lock = _open_curves(str(run.directory.metrics))
    with lock:
        try:
            curves.read_on()
        except OSError as error:
            states.box("warning", f"{render.text(run.name)}: its metrics cannot be read", render.text(str(error)))
        return dict(curves.by_name)


@st.cache_resource(max_entries=64, show_spinner=False)
def _open_curves(path: str) -> tuple[Curves, threading.Lock]:
    return Curves(Path(path)), threading.Lock()
