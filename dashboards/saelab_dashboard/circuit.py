"""One experiment on circuits: its pictures, as the report has them, and the latents that heads feed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import streamlit as st

from saelab.circuits.directory import CircuitDirectory
from saelab.circuits.findings import FeaturesFound, Findings
from saelab.circuits.report import heads, measured, summary
from saelab.circuits.report.latents import fed_by, feeds, told
from saelab.evals.report.pieces import gallery
from saelab.features import render
from saelab_dashboard import pieces, session, states
from saelab_dashboard.latents import Names
from saelab_dashboard.tables import cell, head, table

_METHOD = "method"
"""The name of a method in addresses."""
_NUMBERS = ("score", "effect of patching")

Head = tuple[int, int]
Name = Callable[[int], str]
"""What a latent is called, as HTML."""


def show(name: str, path: Path, found: Findings) -> None:
    """All of it, the circuit of one method first."""
    st.html(f"<h2>{render.text(found.name)}</h2>")
    pieces.show(f"<header>{summary(found)}</header>", "summary")
    label = _method(name, found)
    maps, drawn = st.columns(2, gap="medium")
    with maps:
        _piece("Heads", f'<div class="circuit gallery">{heads.scores(found, label)}{heads.effects(found)}</div>')
    if found.shown is not None:
        with drawn:
            _piece("The circuit", f'<div class="circuit gallery">{heads.circuit(found, label)}</div>')
        _heads(found, label)
    if found.curves:
        _piece("What circuits keep", gallery([*measured.all_curves(found), *measured.curves_of(found, label)]))
    _piece("Methods", measured.methods(found))
    st.html('<h2>The report</h2><p class="sl-dim">All of this, ROC curves and every method\'s map in one file:</p>')
    st.code(str(CircuitDirectory(path).page.absolute()), language=None, wrap_lines=True)


def _piece(title: str, body: str) -> None:
    st.html(f"<h2>{title}</h2>")
    pieces.show(body, title)


def _method(name: str, found: Findings) -> str:
    """The method that is looked at: the address's, where it names one, or else the experiment's own choice."""
    labels = [row.label for row in found.rows]
    own = found.shown[0] if found.shown else labels[0]
    asked = st.query_params.get(_METHOD)
    at = labels.index(asked if asked in labels else own)
    label = st.selectbox("Method", labels, at, format_func=render.shown, key=f"method of {name}")
    st.query_params[_METHOD] = label
    return label


# -- heads and latents --------------------------------------------------------------------------------


def _heads(found: Findings, label: str) -> None:
    """The heads of a method's circuit and, where an SAE was looked at, the latents that each of them feeds."""
    scores, truth, features = found.methods[label].scores[0].heads, found.truth, found.features
    name = _named(features) if features else str
    say: dict[str, Callable[[Head], str]] = {"latents it feeds": partial(_fed, features, name)} if features else {}
    say |= {
        "score": lambda at: render.number(float(scores[at])),
        "effect of patching": lambda at: "–" if truth.effects is None else render.number(float(truth.effects[at])),
        "in the ground truth": lambda at: "yes" if truth.members[at] else "no",
    }
    columns = [head("head"), *(head(title, number=title in _NUMBERS) for title in say)]
    rows = [
        [head(f"{at[0]}.{at[1]}", row=True), *(cell(what(at), number=title in _NUMBERS) for title, what in say.items())]
        for at in found.circuit(label)
    ]
    st.html("<h2>Heads of the circuit</h2>")
    st.html(table("heads of the circuit", columns, rows, kind="sl-parts"))
    if features:
        _latents(features, name)


def _fed(features: FeaturesFound, name: Name, at: Head) -> str:
    """The latents that a head feeds, with how much of what they do it gives them."""
    if at not in features.heads:
        behind = at[0] > features.layer
        return f'<span class="sl-dim">{"behind the SAE" if behind else "not looked at"}</span>'
    return _several([_given(name(latent), lost) for latent, lost in feeds(features, at)])


def _latents(features: FeaturesFound, name: Name) -> None:
    """What latents do in the task, and what feeds them."""
    titles = ("estimated loss", "exact loss", "clean", "corrupted")
    columns = [head("latent"), *(head(title, number=True) for title in titles), head("heads it gets that from")]
    rows = []
    for one in features.latents:
        values = [math.nan if value is None else value for value in (one.score, one.exact, one.clean, one.corrupted)]
        numbers = [cell(render.number(value), number=True) for value in values]
        by = [_given(f"{layer}.{number}", lost) for (layer, number), lost in fed_by(features, one.fed)]
        rows.append([head(name(one.latent), row=True), *numbers, cell(_several(by))])
    st.html(f'<h2>Latents in the task</h2><p class="sl-dim">{render.text(told(features))}</p>')
    st.html(table("latents in the task", columns, rows, kind="sl-parts"))


def _given(what: str, lost: float) -> str:
    return f'<span class="sl-part">{what} <small class="sl-dim">{render.number(lost)}</small></span>'


def _several(parts: list[str]) -> str:
    return "".join(parts) or "–"


def _named(features: FeaturesFound) -> Name:
    """Links to pages of latents, where their very SAE is served with an index; else their numbers, and how to get
    there."""
    run = session.indexed_as(features.sae_sha256)
    if run is not None and run.bundle is not None:
        names, last = Names(run), run.bundle.n_latents - 1
        return lambda latent: names.described(latent) if 0 <= latent <= last else str(latent)
    states.box(
        "info",
        "The latents of this experiment cannot be opened here",
        f"Their SAE is that of <code>{render.text(features.run)}</code>. Its run is not served, has no index, or was "
        "trained anew since.",
    )
    return str
