"""The table of a comparison, from the run directories it has written so far."""

from __future__ import annotations

from saelab.cli.expand import companion_name, compared, group_directory
from saelab.cli.runs import planned
from saelab.cli.schema import RunConfig
from saelab.errors import SaelabError
from saelab.evals.family import Comparison, FamilyTable
from saelab.evals.records import is_run


def family(config: RunConfig) -> FamilyTable:
    """What the comparison in `config` has measured so far.

    Raises:
        SaelabError: the config compares nothing, or a run directory cannot be read.
    """
    if config.compare is None:
        raise SaelabError("this config compares nothing", where="compare", fix="compare: {members: {...}}")
    comparison = _comparison(config)
    places = {
        (member, seed): group_directory(config) / f"seed-{seed}" / member
        for member in comparison.members
        for seed in comparison.seeds
    }
    return FamilyTable.of(comparison, {key: planned(path) for key, path in places.items() if is_run(path)})


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
