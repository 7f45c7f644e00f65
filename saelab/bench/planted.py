"""Every variant on every planted world: what it finds at the world's own sparsity, beside an oracle and nulls.

Settings come from `planted.yaml` beside this file and from the world; a variant that a third party adds
takes part without a line here.
"""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, get_type_hints

from saelab.bench.progress import Progress, Report
from saelab.errors import SaelabError, did_you_mean
from saelab.sae import VARIANTS
from saelab.testing import recovery
from saelab.testing.fitting import fit, heldout, measure, measure_codes
from saelab.testing.planted import Hierarchy, Readout, Signed, Superposed, World, stream
from saelab.training import TrainSpec

WORLDS: dict[str, World] = {
    "uniform": Superposed(),
    "zipf": Superposed(n_features=256, zipf=1.0),
    "noisy": Superposed(n_features=256, zipf=1.0, noise=0.5),
    "correlated": Superposed(n_features=256, zipf=1.0, noise=0.5, correlation=0.5),
    "hierarchy": Hierarchy(),
    "signed": Signed(),
    "readout": Readout(),
}
"""The first four are a ladder of difficulty."""

EVALUATION_TOKENS = 16_384


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


@cache
def _plan() -> Mapping[str, Any]:
    import yaml

    return yaml.safe_load(files("saelab.bench").joinpath("planted.yaml").read_text(encoding="utf-8"))


def _of_world(name: str) -> Mapping[str, Any]:
    return _plan()["worlds"].get(name, {})


def train_spec(name: str, steps: int, seed: int) -> TrainSpec:
    """How every variant is trained on a world."""
    train = _plan()["train"] | _of_world(name).get("train", {})
    return TrainSpec(tokens=steps * train["batch_tokens"], seed=seed, **train)


def settings_for(kind: str, name: str) -> dict[str, Any]:
    """A variant's settings on a world: width, sparsity and frequencies from the world, where it has such
    settings; then what planted.yaml says of it, and of it on this world."""
    world = WORLDS[name]
    whole = get_type_hints(VARIANTS[kind]).get("k") is not float
    from_world = {
        "n_latents": _of_world(name).get("n_latents", len(world.features)),
        "k": math.ceil(round(world.l0, 6)) if whole else world.l0,
        "l0": world.l0,
        "target_l0": world.l0,
        "highest": float(world.frequencies.max()),
        "lowest": float(world.frequencies.min()),
    }
    known = inspect.signature(VARIANTS[kind]).parameters
    followed = {key: value for key, value in from_world.items() if key in known}
    return followed | _plan()["settings"].get(kind, {}) | _of_world(name).get("settings", {}).get(kind, {})


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
    oracle, random = Row(name, "oracle"), Row(name, "random")
    for seed in range(seeds):
        world = replace(WORLDS[name], seed=seed)
        sample = heldout(world, EVALUATION_TOKENS, seed)
        n_active = (sample.codes != 0).sum(1)
        guess = recovery.random_dictionary(len(world.features), sample.x.shape[1], stream(seed, "random"))
        for row, dictionary in ((oracle, world.features), (random, guess)):
            codes = recovery.pursue(sample.x, dictionary, n_active, signed=world.signed)
            row.add(measure_codes(world, dictionary, codes, codes @ dictionary, sample))
    yield from (oracle, random)


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
