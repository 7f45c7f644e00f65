"""`saelab compare`: every member of a comparison trained on one stream and measured alike, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saelab.cli.console import Reporter
from saelab.cli.expand import companion_name, companions, compared, group_directory
from saelab.cli.group import Group, under_way
from saelab.cli.schema import RunConfig
from saelab.cli.stages import Loaded
from saelab.errors import SaelabError, did_you_mean


def compare(
    config: RunConfig, reporter: Reporter, *, fresh: bool, only: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[Group]:
    """Train and measure what is not trained or measured yet; the groups in which that was done. A member that diverges
    ends alone, and `check_failures` of these groups says so.

    Args:
        only: members by name, whose companions come along; a companion's name stands for its member (empty: all).
        seeds: of the comparison's (empty: all).

    Raises:
        SaelabError: nothing to compare; a member that cannot be; a directory that holds something else; no such
            member or seed; others are under way there, whom nobody has asked for.
    """
    if config.compare is None:
        raise SaelabError("this config compares nothing", where="compare", fix="saelab run CONFIG")
    beside = {name: companion_name(config, name) for name in config.compare.companions}
    only = [next((name for name in beside if beside[name] == chosen), chosen) for chosen in only]
    _check_chosen(config, only, seeds)
    loaded = Loaded(config.model, reporter)
    groups: list[Group] = []

    def make(members: Sequence[RunConfig], seed: int, place: Path) -> None:
        later = [beside[member.name] for member in members if member.name in beside]
        group = Group(members, place, reporter, loaded, later=later)
        groups.append(group)
        if others := companions(config, seed, _l0(_done(group, fresh=fresh))):
            groups.append(Group(others, place, reporter, loaded))
            _done(groups[-1], fresh=fresh)

    for seed in seeds or config.compare.seeds:
        place = group_directory(config) / f"seed-{seed}"
        reporter.say(f"compare    seed {seed} -> {place}")
        members = [member for member in compared(config, seed) if not only or member.name in only]
        stopped = set() if fresh else under_way(place)
        if first := [member for member in members if beside.get(member.name) in stopped]:
            make(first, seed, place)  # what was stopped in the middle of companions goes on with them
        make(members, seed, place)
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
