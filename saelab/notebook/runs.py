"""Runs in a notebook: made from a config's text, found again, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saelab.cli.expand import group_directory
from saelab.cli.group import Group, check_failures
from saelab.cli.schema import RunConfig
from saelab.cli.stages import Loaded
from saelab.config import parse_config
from saelab.errors import SaelabError, SettingError
from saelab.evals.report import Run
from saelab.evals.report.measured import Cell, Evaluation
from saelab.evals.report.words import DASH, between, measured
from saelab.features.bundle import state
from saelab.features.live import Live
from saelab.lm.model import LanguageModel, name_of
from saelab.notebook.lines import Lines
from saelab.notebook.written import Written, table
from saelab.sae import SAE
from saelab.training.run_directory import RunDirectory


def make(config: str, lm: LanguageModel | None = None) -> Path:
    """What `saelab run` does with the text of a config; what is made already is used. Returns the run's directory.

    Args:
        lm: the config's model, where it is loaded already.

    Raises:
        SaelabError: as of `saelab run`; the model is another one than the config's; the config is of several runs.
    """
    loaded = parse_config(RunConfig, config, "config")
    if loaded.sweep is not None or loaded.compare is not None:
        raise SettingError("config", "this makes one run", fix="saelab run and saelab compare make several")
    reporter = Lines()
    shared = Loaded(loaded.model, reporter)
    if lm is not None:
        if lm.identity["name"] != name_of(loaded.model):
            raise SettingError(
                "lm", f"this is {lm.identity['name']}, and the config's model is {name_of(loaded.model)}"
            )
        shared.model = lm
    group = Group([loaded], group_directory(loaded), reporter, shared)
    group.make()
    check_failures([group])
    return group_directory(loaded)


def finished(run: Path, lm: LanguageModel) -> Path | None:
    """The directory of a run, where an SAE of this model is trained there; else None.

    Raises:
        SaelabError: there is one, and its latents have not been looked up yet.
    """
    place = RunDirectory(run)
    if not place.finished or not _is_of(SAE.load(place.sae), lm):
        return None
    if state(place.index) != "complete":
        raise SaelabError("this run has no feature index yet", where=str(run), fix=f"saelab index {run}")
    return run


def _is_of(sae: SAE, lm: LanguageModel) -> bool:
    try:
        Live.of(sae, lm)
    except SaelabError:
        return False
    return True


def numbers(run: Run, metrics: Sequence[str]) -> Written:
    """Some of what evaluators measured: each number with what it is, and how sure it is.

    Raises:
        SettingError: a number that none of them measured (with those that are there).
    """
    by_name = {name: one for one in reversed(run.evaluations) for name in one.metrics}
    for name in metrics:
        if name not in by_name:
            raise SettingError("metrics", f"'{name}' was not measured", fix=f"one of {', '.join(by_name) or 'none'}")
    rows = [_number(by_name[name], name) for name in metrics]
    return table(["metric", "value", "95 % interval", "measured on", "what it is"], rows)


def _number(one: Evaluation, name: str) -> list[Cell]:
    between_ = between(name, one.intervals.get(name)) or DASH
    return [name, measured(name, one.metrics[name]), between_, one.counted, one.meaning.get(name, "")]
