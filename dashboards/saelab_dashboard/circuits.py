"""Experiments that `saelab circuit` wrote: which heads of a model do a task, by many methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from saelab.circuits.directory import CircuitDirectory, find_circuits
from saelab.circuits.findings import Findings, read
from saelab.circuits.parts import Standing, standing
from saelab.errors import SaelabError
from saelab.features import render
from saelab_dashboard import circuit, links, session, states
from saelab_dashboard.tables import cell, head, table

_CIRCUIT = "circuit"
"""The name of an experiment in addresses and in the session."""
_TITLES = ("experiment", "task", "model", "methods", "seeds", "best method")


def show() -> None:
    """The page."""
    roots = session.roots()
    known = _experiments(roots)
    st.html("<h1>Circuits</h1>")
    if not known:
        states.nothing("There are no circuits here yet", roots, "This looks for one:", "saelab circuit circuits/ioi")
    name = _chosen(known)
    if len(known) > 1:
        st.html(_listed(known, name))
    try:
        found = _read(known[name])
        if isinstance(found, Standing):
            states.say("info", f"{render.text(name)} is under way, or was stopped", _how_far(found))
        circuit.show(name, known[name], found)
    except SaelabError as error:
        states.failed(error)


@st.cache_data(ttl=5, show_spinner=False)
def _experiments(roots: tuple[str, ...]) -> dict[str, Path]:
    return session.named(roots, find_circuits)


def _chosen(known: Mapping[str, Path]) -> str:
    """The one the address names, else the one last looked at, else the first that is done."""
    asked = st.query_params.get(_CIRCUIT)
    if asked is not None and asked not in known:
        ways = " · ".join(map(_link, list(known)[:20]))
        states.say("warning", f"There is no circuit “{render.text(asked, 200)}” here", f"Those that are: {ways}")
    last = st.session_state.get(_CIRCUIT)
    name = asked or (str(last) if last in known else min(known, key=lambda name: not _done(known[name])))
    st.session_state[_CIRCUIT] = st.query_params[_CIRCUIT] = name
    return name


def _listed(known: Mapping[str, Path], chosen: str) -> str:
    """All experiments, each with its best method; of one under way, how far it is; of one that cannot be read, why."""
    heads = [*map(head, _TITLES), head("AUC", number=True)]
    return table("experiments", heads, [_row(name, path, name == chosen) for name, path in known.items()])


def _row(name: str, path: Path, chosen: bool) -> list[str]:
    first = head(_link(name, 'aria-current="page"' if chosen else ""), row=True)
    try:
        found = _read(path)
    except SaelabError as error:
        return [first, f'<td colspan="{len(_TITLES)}" class="sl-dim">{render.text(error.message, 200)}</td>']
    if isinstance(found, Standing):
        known = [cell(render.text(one, 100)) for one in (found.task, found.model)]
        return [first, *known, f'<td colspan="{len(_TITLES) - 2}" class="sl-dim">under way: {_how_far(found)}</td>']
    best = found.rows[0]
    auc = best.auc[next(iter(found.truths))]
    mean = auc.mean if auc else math.nan
    said = (found.task, found.model, str(len(found.methods)), str(found.seeds), best.label)
    return [
        first,
        *(cell(render.text(one, 100)) for one in said),
        cell(render.number(mean), number=True),
    ]


def _link(name: str, attributes: str = "") -> str:
    return links.anchor(render.text(name), "circuits", None, attributes=attributes, circuit=name)


def _how_far(found: Standing) -> str:
    return f"{found.done} of {found.methods} methods"


def _done(path: Path) -> bool:
    return CircuitDirectory(path).document.exists()


def _read(path: Path) -> Findings | Standing:
    """An experiment, or how far it is; read once, and again where it was written anew.

    Raises:
        SaelabError: it cannot be read.
    """
    place, done = CircuitDirectory(path), _done(path)
    file = place.document if done else place.parts
    return _read_once(path, done, file.stat().st_mtime_ns if file.exists() else 0)


@st.cache_resource(max_entries=64, show_spinner=False)
def _read_once(path: Path, done: bool, written: int) -> Findings | Standing:
    return read(path) if done else standing(CircuitDirectory(path).parts)
