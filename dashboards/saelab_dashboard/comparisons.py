"""Comparisons that `saelab compare` wrote, of which served runs are members."""

from __future__ import annotations

import base64
from pathlib import Path

import streamlit as st

from saelab.errors import SaelabError
from saelab.evals import family
from saelab.evals.family import FamilyTable
from saelab.features import render
from saelab_dashboard import links, session, states
from saelab_dashboard.tables import cell, head, table


def show() -> None:
    """A section of a page; nothing where there are none."""
    found = _found()
    if not found:
        return
    st.html("<h2>Comparison</h2>")
    name = st.selectbox("Comparison", list(found)) if len(found) > 1 else next(iter(found))
    try:
        _show(found[name], family.read(found[name]))
    except SaelabError as error:
        states.failed(error)


def _found() -> dict[str, Path]:
    """By name: the file that stands above `<name>/seed-<n>/<member>`."""
    groups = sorted({path.absolute().parents[1] for path in session.served().values()})
    return {group.name: group / family.FILE for group in groups if (group / family.FILE).is_file()}


def _show(path: Path, found: FamilyTable) -> None:
    headings, rows = family.cells(found, tuple(family.COLUMNS))
    heads = [head(render.text(title), number=i > 0) for i, title in enumerate(headings)]
    body = (
        [head(_member(path.parent, found, name), row=True), *(cell(render.text(said), number=True) for said in cells)]
        for name, *cells in rows
    )
    notes = "".join(f"<p class='sl-dim'>{render.text(note)}</p>" for note in family.notes(found))
    st.html(table(f"comparison {path.parent.name}", heads, body) + notes)
    picture = path.with_suffix(".png")
    if picture.is_file():
        st.html(_image(picture, "FVU and CE score of each member against its L0; the numbers are in the table above"))


def _image(path: Path, said: str) -> str:
    """With a text for those who do not see it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="sl-picture" alt="{render.text(said)}" src="data:image/png;base64,{data}">'


def _member(group: Path, found: FamilyTable, name: str) -> str:
    """A link to the member's first run that is served."""
    places = {path.absolute(): run for run, path in session.served().items()}
    for seed in found.comparison.seeds:
        if run := places.get(group / f"seed-{seed}" / name):
            return links.anchor(render.text(name), "overview", run)
    return render.text(name)
