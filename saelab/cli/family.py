"""The table of a comparison, from the run directories it has written so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from saelab.cli.expand import companion_name, companions, compared, group_directory
from saelab.cli.runs import planned
from saelab.cli.schema import RunConfig
from saelab.cli.what_trains import changed_settings
from saelab.errors import SaelabError
from saelab.evals.family import Comparison, FamilyTable
from saelab.evals.records import RunRecord, is_run
from saelab.training.run_directory import RunDirectory

OTHER = "of another config"
"""Why a run in a member's place does not count."""


def family(config: RunConfig) -> FamilyTable:
    """What the comparison in `config` has measured so far. A run that was trained otherwise than its member says does
    not count, nor a companion of another L0 than its member came out with.

    Raises:
        SaelabError: the config compares nothing, or a run directory cannot be read.
    """
    if config.compare is None:
        raise SaelabError("this config compares nothing", where="compare", fix="compare: {members: {...}}")
    comparison = _comparison(config)
    runs: dict[tuple[str, int], RunRecord] = {}
    refused: dict[tuple[str, int], str] = {}
    for seed in comparison.seeds:
        place = group_directory(config) / f"seed-{seed}"
        own = {member.name: member for member in compared(config, seed)}
        found = dict(_trained_as(own, place))
        l0 = {name: run.metrics["l0"] for name, run in found.items() if "l0" in run.metrics}
        found |= _trained_as({member.name: member for member in companions(config, seed, l0)}, place)
        runs |= {(name, seed): run for name, run in found.items()}
        others = [name for name in comparison.members if name not in found and is_run(place / name)]
        refused |= {(name, seed): OTHER for name in others}
    return FamilyTable.of(comparison, runs, refused)


def _trained_as(members: Mapping[str, RunConfig], place: Path) -> Iterator[tuple[str, RunRecord]]:
    """Those whose run in `place` was trained, or is, as they say."""
    for name, member in members.items():
        path = place / name
        if is_run(path) and _same_config(RunDirectory(path), member):
            yield name, planned(path)


def _same_config(directory: RunDirectory, config: RunConfig) -> bool:
    """Not where it cannot be read, as one of another version."""
    try:
        return directory.config.exists() and not changed_settings(directory, config)
    except SaelabError:
        return False


def _comparison(config: RunConfig) -> Comparison:
    assert config.compare is not None
    names = [member.name for member in compared(config, config.compare.seeds[0])]
    beside = {name: companion_name(config, name) for name in config.compare.companions}
    return Comparison(
        members=(*names, *beside.values()),
        seeds=config.compare.seeds,
        curve=tuple(name for name in names if name not in config.compare.members),
        label=config.sae.kind,
        beside=beside,
        title=_title(config),
    )


def _title(config: RunConfig) -> str:
    """What all members have in common."""
    model = config.model.name.removeprefix("asset:").rstrip("/").rpartition("/")[2]
    width = config.sae.settings.get("n_latents")
    parts = [f"{model}, {config.sae_hook}", *([f"{width:,} latents"] if width else []), _tokens(config.train.tokens)]
    return "; ".join(parts)


def _tokens(count: int) -> str:
    return f"{count / 1e6:.3g} M tokens" if count >= 1e6 else f"{count:,} tokens"
