"""Models that circuits are looked for in: a planted one, and tiny random ones that read words."""

from __future__ import annotations

import pytest
import torch

from saelab.circuits import Pairs, draw, pairs_of
from saelab.lm.model import LanguageModel, ModelSpec, load
from saelab.testing.planted_circuit import PlantedCircuit, PlantedTask, plant
from saelab.testing.tiny import tiny_model


@pytest.fixture(scope="session")
def planted_world(tmp_path_factory) -> tuple[PlantedCircuit, LanguageModel]:
    directory = tmp_path_factory.mktemp("models") / "planted"
    planted = plant(directory)
    return planted, load(ModelSpec(str(directory), dtype="float32", device="cpu"))


@pytest.fixture(scope="session")
def planted(planted_world) -> PlantedCircuit:
    return planted_world[0]


@pytest.fixture(scope="session")
def planted_lm(planted_world) -> LanguageModel:
    return planted_world[1]


@pytest.fixture(scope="session")
def planted_pairs() -> Pairs:
    return pairs_of("planted", PlantedTask(), 60, "train", 0)


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def word_lm(request, tmp_path_factory) -> LanguageModel:
    """Llama with two queries to a key, and GPT-2: prompts of several lengths."""
    directory = tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param, words=True)
    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    with torch.no_grad():
        for name, parameter in lm.bridge.original_model.named_parameters():  # so that corruption shows
            if "norm" not in name and "ln_" not in name:
                parameter.mul_(4)
    return lm


@pytest.fixture(scope="session")
def pairs(word_lm) -> Pairs:
    return draw("ioi", 12, "train", 0, word_lm)
