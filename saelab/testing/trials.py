"""How a variant is tried on planted worlds: the worlds, its settings and training there, and what to compare it with.

Settings come from `trials.yaml` beside this file and from the world.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, get_type_hints

from saelab.sae import VARIANTS
from saelab.testing import recovery
from saelab.testing.fitting import heldout, measure_codes
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


@cache
def plan() -> Mapping[str, Any]:
    """What `trials.yaml` says."""
    import yaml

    return yaml.safe_load(files("saelab.testing").joinpath("trials.yaml").read_text(encoding="utf-8"))


def _of_world(name: str) -> Mapping[str, Any]:
    return plan()["worlds"].get(name, {})


def train_spec(name: str, steps: int, seed: int) -> TrainSpec:
    """How every variant is trained on a world."""
    train = plan()["train"] | _of_world(name).get("train", {})
    return TrainSpec(tokens=steps * train["batch_tokens"], seed=seed, **train)


def from_world(kind: str, name: str) -> dict[str, Any]:
    """What follows from a world, of what a variant can be told: its width, sparsity and frequencies."""
    world = WORLDS[name]
    whole = get_type_hints(VARIANTS[kind]).get("k") is not float
    follows = {
        "n_latents": _of_world(name).get("n_latents", len(world.features)),
        "k": math.ceil(round(world.l0, 6)) if whole else world.l0,
        "l0": world.l0,
        "target_l0": world.l0,
        "highest": float(world.frequencies.max()),
        "lowest": float(world.frequencies.min()),
    }
    known = inspect.signature(VARIANTS[kind]).parameters
    return {key: value for key, value in follows.items() if key in known}


def settings_for(kind: str, name: str) -> dict[str, Any]:
    """A variant's settings on a world: what follows from it, then what the file says of the variant, and of it on
    this world. All else is its default."""
    told = plan()["settings"].get(kind, {}) | _of_world(name).get("settings", {}).get(kind, {})
    return from_world(kind, name) | told


def compared(name: str, seed: int) -> dict[str, dict[str, float]]:
    """The true dictionary ("oracle") and a random one ("random") on a world, both with codes by orthogonal matching
    pursuit that is told how many features each token has; measured as `saelab.testing.fitting.measure` does."""
    world = replace(WORLDS[name], seed=seed)
    sample = heldout(world, EVALUATION_TOKENS, seed)
    n_active = (sample.codes != 0).sum(1)
    guess = recovery.random_dictionary(len(world.features), sample.x.shape[1], stream(seed, "random"))
    found: dict[str, dict[str, float]] = {}
    for label, dictionary in (("oracle", world.features), ("random", guess)):
        codes = recovery.pursue(sample.x, dictionary, n_active, signed=world.signed)
        found[label] = measure_codes(world, dictionary, codes, codes @ dictionary, sample)
    return found
