"""Every variant on every planted world: what it finds at the world's own sparsity, beside an oracle and nulls.

How each is set and trained is `saelab.testing.trials`'; a variant that a third party adds takes part without a line
here.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from saelab.bench.progress import Progress, Report
from saelab.errors import SaelabError, did_you_mean
from saelab.sae import VARIANTS
from saelab.testing.fitting import fit, heldout, measure
from saelab.testing.trials import EVALUATION_TOKENS, WORLDS, compared, settings_for, train_spec


@dataclass
class Row:
    """One dictionary on one world.

    Attributes:
        world, name: which; `name` is a variant, "oracle" (true dictionary) or "random" (random one).
        settings: of the variant.
        metrics: per metric, one value for each seed; see `saelab.testing.fitting.measure`. Variants have
            `untrained_mcc` besides.
        refused: why this variant cannot be trained here; then there are no metrics.
    """

    world: str
    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    refused: str | None = None

    def median(self, metric: str) -> float:
        return statistics.median(self.metrics[metric])

    def add(self, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self.metrics.setdefault(name, []).append(value)

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        medians = {name: self.median(name) for name in self.metrics}
        return vars(self) | {"medians": medians}


def run(
    *,
    kinds: Sequence[str] = (),
    worlds: Sequence[str] = (),
    seeds: int = 3,
    steps: int = 1000,
    report: Report = lambda done, total, note: None,
) -> Iterator[Row]:
    """Rows world by world: oracle, random dictionary, then the variants.

    Args:
        kinds, worlds: which; all of them if none is named.
        seeds: how many; a seed draws the world's features, the weights and the tokens.
        steps: of training.

    Raises:
        SaelabError: an unknown variant or world.
    """
    for name in worlds:
        if name not in WORLDS:
            raise SaelabError(f"unknown planted world '{name}'", fix=did_you_mean(name, WORLDS))
    kinds, worlds = list(kinds) or list(VARIANTS), list(worlds) or list(WORLDS)
    for kind in kinds:
        VARIANTS[kind]  # unknown ones are refused before an hour has passed
    progress = Progress(report, len(worlds) * len(kinds) * seeds)
    for name in worlds:
        yield from _nulls(name, seeds)
        for kind in kinds:
            try:
                yield _variant(name, kind, seeds, steps, progress)
            except SaelabError as error:
                yield Row(name, kind, refused=error.message)
    report(progress.done, progress.done, "")


def _nulls(name: str, seeds: int) -> Iterator[Row]:
    rows = {label: Row(name, label) for label in ("oracle", "random")}
    for seed in range(seeds):
        for label, found in compared(name, seed).items():
            rows[label].add(found)
    yield from rows.values()


def _variant(name: str, kind: str, seeds: int, steps: int, progress: Progress) -> Row:
    settings = settings_for(kind, name)
    row = Row(name, kind, settings)
    for seed in range(seeds):
        progress.begin(f"{name} {kind} seed {seed}")
        world, spec = replace(WORLDS[name], seed=seed), train_spec(name, steps, seed)
        sample = heldout(world, EVALUATION_TOKENS, seed)
        untrained = measure(world, fit(world, kind, settings, spec, steps=0), sample)
        row.add(measure(world, fit(world, kind, settings, spec), sample) | {"untrained_mcc": untrained["mcc"]})
    return row
