"""What a page says instead of its content: each state in words, with a way on. Each ends the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

import streamlit as st

from saelab.errors import SaelabError
from saelab.features import render
from saelab.features.bundle import PROGRESS, State, state
from saelab.files import read_json
from saelab.training.run_directory import RunDirectory
from saelab_dashboard import links

Kind = Literal["info", "warning", "error"]
_SIGNS = {"info": "i", "warning": "!", "error": "×"}


def say(kind: Kind, title: str, body: str = "", command: str = "") -> NoReturn:
    """Show a box and end the page. `title` and `body` are HTML; `command` is plain text to be copied."""
    box(kind, title, body, command)
    st.stop()


def box(kind: Kind, title: str, body: str = "", command: str = "") -> None:
    """The same, and the page goes on."""
    sign = f'<span class="sl-sign" aria-hidden="true">{_SIGNS[kind]}</span>'
    shown = f"<p>{body}</p>" if body else ""
    st.html(f'<div class="sl-state sl-{kind}" role="status"><strong>{sign}{title}</strong>{shown}</div>')
    if command:
        st.code(command, language="bash")


def no_runs(roots: Sequence[str]) -> NoReturn:
    nothing("There are no runs here yet", roots, "This trains one:", "saelab run demo")


def nothing(title: str, roots: Sequence[str], what: str, command: str) -> NoReturn:
    """None of what a page is about lies below the roots; `what` says, as HTML, what the command does."""
    where = ", ".join(f"<code>{render.text(root)}</code>" for root in roots)
    say("info", title, f"Looked in {where}. {what}", command)


def unknown_run(name: str, known: Sequence[str]) -> NoReturn:
    ways = " · ".join(links.anchor(render.text(run), "overview", run) for run in known[:20])
    say("warning", f"There is no run “{render.text(name, 200)}” here", f"Runs that are: {ways}")


def failed(error: SaelabError) -> NoReturn:
    """Any error that a person can mend."""
    where = f"<br><code>{render.text(error.where)}</code>" if error.where else ""
    fix = f"<br>{render.text(error.fix)}" if error.fix else ""
    say("error", render.text(error.message), f"{where}{fix}")


def no_index(directory: RunDirectory, found: State, problem: SaelabError | None) -> NoReturn:
    """Absent, on its way, damaged, or of another SAE."""
    command = f"saelab index {shlex.quote(str(directory.path))}"
    if problem is not None:
        where = f"<br><code>{render.text(problem.where)}</code>" if problem.where else ""
        say("error", "This index cannot be shown", f"{render.text(problem.message)}{where}", f"{command} --again")
    if not directory.finished:
        say("info", "This run has no SAE yet", "It is still training, or was stopped. Its index can be built then.")
    if found == "building":
        _building(directory)
    say("info", "This run has no feature index yet", "One command builds it:", command)


def _building(directory: RunDirectory) -> NoReturn:
    box("info", "This index is being built", "This page goes on by itself when it is complete.")
    _progress(directory.path / "index")
    st.caption("Where the command was stopped, the same command continues:")
    st.code(f"saelab index {shlex.quote(str(directory.path))}", language="bash")
    st.stop()


@st.fragment(run_every=2)
def _progress(index: Path) -> None:
    if state(index) == "complete":
        st.rerun()
    try:
        found = read_json(index / PROGRESS)
        stage, done, total = str(found["stage"]), int(found["done"]), int(found["total"])
    except (SaelabError, KeyError, TypeError, ValueError):
        stage, done, total = "starting", 0, 1
    bar = f'<progress max="{max(total, 1)}" value="{done}" aria-label="progress"></progress>'
    st.html(f'<p class="sl-progress">{bar} {render.text(stage, 100)}: {done:,} of {total:,}</p>')
