"""`saelab compare`: every member of a comparison trained on one stream and measured alike, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saelab.cli.console import Reporter
from saelab.cli.expand import companions, compared, group_directory
from saelab.cli.group import Group
from saelab.cli.schema import RunConfig
from saelab.cli.stages import Loaded
from saelab.errors import SaelabError, did_you_mean


def compare(
    config: RunConfig, reporter: Reporter, *, fresh: bool, only: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[Group]:
    """Train and measure what is not trained or measured yet; the groups in which that was done.

    Args:
        only: members by name, whose companions come along (empty: all). seeds: of the comparison's (empty: all).

    Raises:
        SaelabError: nothing to compare; a member that cannot be; a directory that holds something else; no such
            member or seed.
    """
    if config.compare is None:
        raise SaelabError("this config compares nothing", where="compare", fix="saelab run CONFIG")
    _check_chosen(config, only, seeds)
    loaded = Loaded(config.model, reporter)
    groups = []
    for seed in seeds or config.compare.seeds:
        place = group_directory(config) / f"seed-{seed}"
        reporter.say(f"compare    seed {seed} -> {place}")
        members = [member for member in compared(config, seed) if not only or member.name in only]
        group = Group(members, place, reporter, loaded)
        l0 = _l0(_done(group, fresh=fresh))
        groups.append(group)
        if others := companions(config, seed, l0):
            group = Group(others, place, reporter, loaded)
            _done(group, fresh=fresh)
            groups.append(group)
    return groups


def _check_chosen(config: RunConfig, only: Sequence[str], seeds: Sequence[int]) -> None:
    assert config.compare is not None
    names = [member.name for member in compared(config, config.compare.seeds[0])]
    for name in only:
        if name not in names:
            raise SaelabError(f"no member is called '{name}'", where="--only", fix=did_you_mean(name, names))
    for seed in seeds:
        if seed not in config.compare.seeds:
            known = ", ".join(map(str, config.compare.seeds))
            raise SaelabError(f"seed {seed} is not of this comparison", where="--seed", fix=f"one of {known}")


def _done(group: Group, *, fresh: bool) -> dict[str, dict[str, Any]]:
    """Every member trained and measured; what `eval.json` of each holds."""
    store = group.prepare(fresh=fresh)
    with group.claimed():
        group.begin(fresh=fresh)
        group.train(store)
        return group.evaluate(store)


def _l0(documents: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Held-out active latents per token, by member; what cannot be measured is left out."""
    found = {name: document["evaluations"]["reconstruction"]["metrics"] for name, document in documents.items()}
    return {name: metrics["l0"] for name, metrics in found.items() if "l0" in metrics}
