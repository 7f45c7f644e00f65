"""What an SAE is, how good it is, and its latents at a glance."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import streamlit as st

from saelab.evals.records import RunRecord
from saelab.features import Bundle, render
from saelab_dashboard import charts, links, session, states
from saelab_dashboard.session import OpenRun

_POINTS = 10_000
_METRICS = {
    "fvu": ("FVU", "variance left unexplained", ""),
    "explained_variance": ("Explained", "share of variance", ""),
    "l0": ("L0", "active latents a token", ""),
    "ce_score": ("CE score", "of the loss by zero-ablation", ""),
    "delta_ce_nats": ("Δ CE", "nats a token", ""),
    "kl_nats": ("KL", "nats a token", ""),
    "dead_frac": ("Dead", "of latents, when measured", ".2%"),
    "cosine": ("Cosine", "input to reconstruction", ""),
}
"""By name in eval.json: title, what it is, and a format where it is not a plain number."""


def show() -> None:
    """The page."""
    run = session.chosen()
    st.html(f"<h1>{render.text(run.name)}</h1>{_metrics(run)}")
    if run.bundle is None:
        states.no_index(run.directory, run.state, run.problem)
    latents, place = st.columns([1, 1.6], gap="large")
    with latents:
        st.html(_latents(run, run.bundle))
    with place:
        _map(run, run.bundle)


# -- numbers ------------------------------------------------------------------------------------------


def _metrics(run: OpenRun) -> str:
    record = run.record
    rows = "".join(_tile(name, _value(record, key, form), what) for key, (name, what, form) in _METRICS.items())
    problems = "".join(f'<p class="sl-dim">{render.text(problem)}</p>' for problem in record.problems)
    note = "" if record.metrics else '<p class="sl-dim">~ measured while training, on few held-out tokens</p>'
    return f'<h2>Measured on held-out tokens</h2><dl class="sl-tiles">{rows}</dl>{note}{problems}'


def _tile(name: str, value: str, note: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"


def _value(record: RunRecord, key: str, form: str) -> str:
    """What is not measured, or not measurable, is never 0."""
    value = record.value(key)
    if value is None:
        return '<span class="sl-dim">–<small>not measured</small></span>'
    shown = f"{value:{form}}" if form else render.number(value)
    return shown if key in record.metrics else f"~{shown}"


def _latents(run: OpenRun, bundle: Bundle) -> str:
    count = bundle.columns["count"]
    dead = int((count == 0).sum())
    written = run.annotations.labelled(bundle.sae_sha256)
    labelled = sum(bool(said.label) for said in written.values())
    tiles = [
        ("latents", links.anchor(f"{bundle.n_latents:,}", "features", run.name, show="all"), ""),
        ("dead", links.anchor(f"{dead:,}", "features", run.name, show="dead"), f"{dead / bundle.n_latents:.2%}"),
        ("labelled", links.anchor(f"{labelled:,}", "features", run.name, show="labelled"), "by you"),
        ("looked at", f"{bundle.n_tokens:,}", f"tokens in {bundle.n_contexts:,} contexts"),
    ]
    rows = "".join(_tile(*tile) for tile in tiles)
    return f'<h2>Latents in this index</h2><dl class="sl-tiles">{rows}</dl><br>{_densities(bundle)}'


def _densities(bundle: Bundle) -> str:
    alive = bundle.density[bundle.density > 0]
    if not len(alive):
        return ""
    logs = np.log10(alive)
    low, high = float(np.floor(logs.min() * 2) / 2), float(min(np.ceil(logs.max() * 2) / 2, 0.0))
    counts, edges = np.histogram(logs, bins=40, range=(low, max(high, low + 0.5)))
    said = [
        f"density {10**a:.2g} to {10**b:.2g}: {n:,} latents" for a, b, n in zip(edges, edges[1:], counts, strict=False)
    ]
    marks = [f"{10**edge:.2g}" for edge in np.linspace(edges[0], edges[-1], 3)]
    middle = f"half of them below {np.median(alive):.2g}"
    summary = f"{len(alive):,} latents from {alive.min():.2g} to {alive.max():.2g}, {middle}"
    title = "Density: share of tokens on which a latent is active (log scale)"
    heights = (counts / counts.max()).tolist()
    return charts.bars(title, heights, marks, said, summary=summary)


# -- the map ------------------------------------------------------------------------------------------


def _map(run: OpenRun, bundle: Bundle) -> None:
    kind = {"umap": "UMAP", "pca": "PCA"}.get(str(bundle.manifest.get("map")))
    if kind is None:
        st.html('<h2>Map</h2><p class="sl-dim">This index was built without a map of the decoder.</p>')
        return
    chart, shown = _chart(bundle, run)
    note = f"{shown:,} of {bundle.n_latents:,} latents, drawn at random" if shown < bundle.n_latents else "all latents"
    st.html(f"<h2>Map of the decoder <small>{kind}, {note}; click a point to open it</small></h2>")
    alt = (
        f"{kind} of decoder rows in two dimensions, coloured by density. The table of features lists the same latents."
    )
    event: Any = st.altair_chart(chart, key=f"map {run.name}", on_select="rerun", selection_mode="latent", alt=alt)
    picked = event.selection.get("latent") if event else None
    if picked:
        links.go("feature", run.name, latent=int(picked[0]["latent"]))


def _chart(bundle: Bundle, run: OpenRun) -> tuple[Any, int]:
    import altair as alt
    import pandas as pd

    columns = bundle.columns
    placed = np.flatnonzero(~np.isnan(columns["map_x"]))
    if len(placed) > _POINTS:
        placed = np.sort(np.random.default_rng(0).choice(placed, _POINTS, replace=False))
    written = run.annotations.labelled(bundle.sae_sha256)
    labels = {latent: html.unescape(render.text(said.label, 100)) for latent, said in written.items()}
    least = 1 / max(bundle.n_tokens, 1)
    data = pd.DataFrame(
        {
            "x": columns["map_x"][placed],
            "y": columns["map_y"][placed],
            "latent": placed,
            "density": np.maximum(bundle.density[placed], least),
            "fires on": [_top(bundle, int(i)) for i in columns["fire_tokens"][placed, 0]],
            "label": [labels.get(int(i), "") for i in placed],
        }
    )
    pick = alt.selection_point(name="latent", fields=["latent"], on="click", nearest=False)
    density = alt.Color(
        "density:Q",
        scale=alt.Scale(type="log", scheme="viridis"),
        legend=alt.Legend(title="density", format=".0e", orient="bottom"),
    )
    axis = alt.Axis(labels=False, ticks=False, title=None, grid=False, domain=False)
    chart = (
        alt.Chart(data)
        .mark_circle(size=22, opacity=0.75)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            color=density,
            tooltip=["latent:Q", "label:N", "fires on:N", alt.Tooltip("density:Q", format=".3%")],
        )
        .add_params(pick)
        .properties(height=460, usermeta={"embedOptions": {"renderer": "canvas"}})
    )
    return chart, len(placed)


def _top(bundle: Bundle, token: int) -> str:
    return html.unescape(render.text(bundle.token(token), 60)) if token >= 0 else ""
