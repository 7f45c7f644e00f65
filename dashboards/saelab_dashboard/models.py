"""The language model and the SAE of a run, loaded once for all pages and people, when something is to be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import streamlit as st

from saelab.errors import SaelabError
from saelab.features import render
from saelab.features.live import Live
from saelab.lm.model import LanguageModel, ModelSpec, load
from saelab.sae import SAE, io
from saelab.training.run_directory import RunDirectory
from saelab_dashboard import states
from saelab_dashboard.session import OpenRun


def trained(run: OpenRun) -> str:
    """What fixes the SAE of a run, for keys of what is computed from it. Where there is none, says so and ends the
    page."""
    if not run.directory.finished:
        no_sae(run)
    return f"{run.name} {_written(run.directory.sae)}"


def no_sae(run: OpenRun) -> NoReturn:
    """There is nothing to run yet."""
    why = failure(run.directory)
    said = f"Training failed: {render.text(why)}" if why else "It is still training, or was stopped."
    states.say("info", f"{render.text(run.name)} has no SAE yet", said)


def failure(run: RunDirectory) -> str | None:
    """Why training stopped for good; None where it did not."""
    try:
        return run.failure
    except (SaelabError, KeyError, TypeError):
        return "its failed.json cannot be read"


def live(run: OpenRun) -> Live:
    """A run's SAE in its model.

    Raises:
        SaelabError: either cannot be loaded, or they do not belong together.
    """
    spec = model_spec(run.directory)
    return Live.of(sae(run), _model(spec.name, spec.revision, spec.dtype, spec.device))


def sae(run: OpenRun) -> SAE:
    """A run's SAE.

    Raises:
        SaelabError: it cannot be read.
    """
    return _sae(str(run.directory.sae), _written(run.directory.sae))


def model_spec(directory: RunDirectory) -> ModelSpec:
    """The model as the run's config names it.

    Raises:
        SaelabError: the config is not there, or names none.
    """
    import yaml

    try:
        document = yaml.safe_load(directory.config.read_text(encoding="utf-8"))
        given: Mapping[str, Any] = document["model"]
        known = {field.name for field in fields(ModelSpec)}
        return ModelSpec(**{key: value for key, value in given.items() if key in known})
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise SaelabError(
            "this run does not say which language model it was trained on",
            where=str(directory.config),
            fix="put the run's config.yaml back, with its section 'model'",
        ) from error


@st.cache_resource(max_entries=1, show_spinner="Loading the language model; this happens once.")
def _model(name: str, revision: str | None, dtype: Any, device: str) -> LanguageModel:
    return load(ModelSpec(name, revision, dtype, device))


@st.cache_resource(max_entries=4, show_spinner="Loading the SAE.")
def _sae(directory: str, written: int) -> SAE:
    return SAE.load(Path(directory))


def _written(directory: Path) -> int:
    return max((directory / name).stat().st_mtime_ns for name in (io.CONFIG, io.WEIGHTS) if (directory / name).exists())
