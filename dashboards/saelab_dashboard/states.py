"""What a page says instead of its content: each state in words, with a way on. Each ends the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NoReturn

import streamlit as st
from saelab_dashboard import links

from saelab.errors import SaelabError
from saelab.features import render
from saelab.features.bundle import PROGRESS, State
from saelab.files import read_json
from saelab.training.run_directory import RunDirectory


def say(kind: str, title: str, body: str = "", command: str = "") -> NoReturn:
    """Show a box and end the page. `title` and `body` are HTML; `command` is plain text to be copied."""
    shown = f'<div class="sl-state" role="status"><strong>{title}</strong><p>{body}</p></div>'
    st.html(shown)
    if command:
        st.code(command, language="bash")
    st.stop()


def no_runs(roots: Sequence[str]) -> NoReturn:
    where = ", ".join(f"<code>{render.text(root)}</code>" for root in roots)
    say("info", "There are no runs here yet", f"Looked in {where}. This trains one:", "saelab run demo")


def unknown_run(name: str, known: Sequence[str]) -> NoReturn:
    ways = " · ".join(links.anchor(render.text(run), "overview", run) for run in known[:20])
    say("warning", f"There is no run “{render.text(name, 200)}” here", f"Runs that are: {ways}")


def failed(error: SaelabError) -> NoReturn:
    """Any error that a person can mend."""
    where = f"<br><code>{render.text(error.where)}</code>" if error.where else ""
    fix = f"<br>{render.text(error.fix)}" if error.fix else ""
    say("error", render.text(error.message), f"{where}{fix}")


def no_index(directory: RunDirectory, state: State, problem: SaelabError | None) -> NoReturn:
    """Absent, on its way, or damaged."""
    command = f"saelab index {shlex.quote(str(directory.path))}"
    if problem is not None:
        say("error", "This index is damaged", render.text(problem.message), f"{command} --again")
    if not directory.finished:
        say("info", "This run has no SAE yet", "It is still training, or was stopped. Its index can be built then.")
    if state == "building":
        _building(directory)
    say("info", "This run has no feature index yet", "One command builds it:", command)


@st.fragment(run_every=2)
def _progress(directory: RunDirectory) -> None:
    from saelab.features.bundle import state

    index = directory.path / "index"
    if state(index) == "complete":
        st.rerun()
    try:
        found = read_json(index / PROGRESS)
        share = min(max(found["done"] / max(found["total"], 1), 0.0), 1.0)
        st.progress(share, text=f"{render.text(str(found['stage']), 100)}: {found['done']:,} of {found['total']:,}")
    except (SaelabError, KeyError, TypeError):
        st.progress(0.0, text="starting")


def _building(directory: RunDirectory) -> NoReturn:
    st.html('<div class="sl-state" role="status"><strong>This index is being built</strong></div>')
    _progress(directory)
    st.caption("This page goes on by itself. Where the command was stopped, the same command continues:")
    st.code(f"saelab index {shlex.quote(str(directory.path))}", language="bash")
    st.stop()
