"""`saelab compare`: every member of a comparison trained on one stream and measured alike, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saelab.cli.console import Reporter
from saelab.cli.expand import companions, compared, group_directory
from saelab.cli.group import Group
from saelab.cli.schema import RunConfig
from saelab.cli.stages import Loaded
from saelab.errors import SaelabError


def compare(config: RunConfig, reporter: Reporter, *, fresh: bool) -> list[Group]:
    """Train and measure what is not trained or measured yet; the groups in which that was done.

    Raises:
        SaelabError: nothing to compare; a member that cannot be; a directory that holds something else.
    """
    if config.compare is None:
        raise SaelabError("this config compares nothing", where="compare", fix="saelab run CONFIG")
    loaded = Loaded(config.model, reporter)
    groups = []
    for seed in config.compare.seeds:
        place = group_directory(config) / f"seed-{seed}"
        reporter.say(f"compare    seed {seed} -> {place}")
        group = Group(compared(config, seed), place, reporter, loaded)
        l0 = _l0(_done(group, fresh=fresh))
        groups.append(group)
        if others := companions(config, seed, l0):
            group = Group(others, place, reporter, loaded)
            _done(group, fresh=fresh)
            groups.append(group)
    return groups


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
