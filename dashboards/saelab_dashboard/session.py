"""Which run is looked at, and what is open of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from saelab.errors import SaelabError
from saelab.evals.records import RunRecord, find_runs, read_run
from saelab.features import Bundle
from saelab.features.annotations import Annotations
from saelab.features.bundle import MANIFEST, State, state
from saelab.files import read_json
from saelab.training.run_directory import RunDirectory
from saelab_dashboard import states

RUN = "run"
"""The name of a run in addresses and in the session."""


@dataclass(frozen=True)
class OpenRun:
    """A run as the pages see it.

    Attributes:
        state: of its index; bundle: the index, where it is complete and sound; problem: what is wrong with it.
    """

    name: str
    directory: RunDirectory
    state: State
    bundle: Bundle | None
    problem: SaelabError | None

    @property
    def annotations(self) -> Annotations:
        """Of all SAEs whose runs lie in the same directory."""
        return Annotations.beside(self.directory.path)

    @property
    def record(self) -> RunRecord:
        """What the run has written so far."""
        return _record(self.directory.path)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """`sae/config.json`: kind, settings, provenance; empty where there is no SAE yet, or none that can be read."""
        return _object(self.directory.sae / "config.json")


@st.cache_data(ttl=5, show_spinner=False)
def _served(roots: tuple[str, ...]) -> dict[str, Path]:
    return named(roots, lambda root: find_runs(root).runs)


def named(roots: Sequence[str], find: Callable[[Path], Iterable[Path]]) -> dict[str, Path]:
    """What `find` finds below the roots, by the names it goes by in addresses."""
    found = {}
    for root in map(Path, roots):
        for path in find(root) if root.is_dir() else ():
            inside = path.resolve().name if path == root else str(path.relative_to(root))
            found[inside if len(roots) == 1 else str(path)] = path
    return found


def served() -> dict[str, Path]:
    """Runs by the names they go by in addresses. A name is looked up here, and never made into a path."""
    return _served(roots())


def roots() -> tuple[str, ...]:
    """The directories that the app was asked for."""
    return tuple(sys.argv[1:]) or ("runs",)


def asked() -> str | None:
    """The run the address names, whether there is one or not; else the one last looked at, else one with an index."""
    return st.query_params.get(RUN) or st.session_state.get(RUN) or _first(served())


def choose(name: str) -> None:
    """Look at another run: the address names it, and no latent of the run before."""
    st.session_state[RUN] = name
    st.query_params.from_dict({RUN: name})


def chosen() -> OpenRun:
    """The run that is looked at. Where there is none of that name, says so and ends the page."""
    runs, name = served(), asked()
    if name is None:
        states.no_runs(roots())
    if name not in runs:
        states.unknown_run(name, list(runs))
    st.session_state[RUN] = name
    if st.query_params.get(RUN) != name:
        st.query_params[RUN] = name
    return open_run(name)


def indexed() -> tuple[OpenRun, Bundle]:
    """`chosen`, with its index; where there is none, says how to get one and ends the page."""
    run = chosen()
    if run.bundle is None:
        states.no_index(run.directory, run.state, run.problem)
    return run, run.bundle


def open_run(name: str) -> OpenRun:
    """A served run by name; what is open stays open, until its index is built anew."""
    directory = RunDirectory(served()[name])
    index = directory.path / "index"
    found, bundle, problem = state(index), None, None
    if found == "complete" and directory.finished:
        try:
            opened = _bundle(index, (index / MANIFEST).stat().st_mtime_ns)
            _check_of_this_sae(opened, directory)
            bundle = opened
        except SaelabError as error:
            problem = error
    return OpenRun(name, directory, found, bundle, problem)


def _check_of_this_sae(bundle: Bundle, directory: RunDirectory) -> None:
    """Raise where the index is of another SAE than the run's, as far as its summary says which that is."""
    trained = _object(directory.summary).get("sae_sha256")
    if trained is not None and bundle.sae_sha256 != trained:
        raise SaelabError(
            "it is of another SAE than the one that the run holds now",
            where=str(bundle.directory),
            fix=f"saelab index {directory.path}",
        )


def indexed_as(sae_sha256: str) -> OpenRun | None:
    """The first run that is served with an index of that very SAE."""
    return next((open_run(name) for name, path in served().items() if _indexed(path / "index") == sae_sha256), None)


@st.cache_data(ttl=5, show_spinner=False)
def _indexed(index: Path) -> str | None:
    """The SAE that an index is of."""
    try:
        return str(read_json(index / MANIFEST)["sae"]["sha256"])
    except (SaelabError, KeyError, TypeError):
        return None


def _first(runs: dict[str, Path]) -> str | None:
    indexed = (name for name, path in runs.items() if state(path / "index") == "complete")
    return next(indexed, next(iter(runs), None))


@st.cache_resource(max_entries=3, show_spinner="opening the index")
def _bundle(index: Path, written: int) -> Bundle:
    return Bundle(index)


@st.cache_data(ttl=5, show_spinner=False)
def _record(path: Path) -> RunRecord:
    return read_run(path)


@st.cache_data(ttl=5, show_spinner=False)
def _object(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; empty where there is none that can be read."""
    try:
        found = read_json(path)
    except SaelabError:
        return {}
    return found if isinstance(found, dict) else {}
