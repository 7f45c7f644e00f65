"""`saelab bench planted`: settings from worlds, tuning for L0, the table and the document."""

from __future__ import annotations

import json
import sys

import pytest

from saelab.bench import planted
from saelab.cli import app
from saelab.errors import SaelabError, SettingError
from saelab.sae import VARIANTS, build
from saelab.sae.variants import topk
from saelab.testing import trials
from saelab.testing.planted import Superposed

TINY = Superposed(d_model=12, n_features=16, n_active=1.0)


@pytest.fixture
def tiny_world(monkeypatch):
    monkeypatch.setitem(planted.WORLDS, "tiny", TINY)


def test_width_and_sparsity_follow_from_the_world(tiny_world):
    assert planted.settings_for("topk", "tiny") == {"n_latents": 16, "k": 1}
    assert planted.settings_for("relu", "tiny") == {"n_latents": 16, "target_l0": 1.0}


def test_a_budget_that_need_not_be_whole_is_not():
    assert planted.settings_for("batch_topk", "hierarchy")["k"] == pytest.approx(1.36)
    assert planted.settings_for("topk", "hierarchy")["k"] == 2
    assert planted.settings_for("topk", "uniform")["k"] == 3


def test_the_file_speaks_of_one_world_and_of_one_variant():
    assert planted.settings_for("matching_pursuit", "hierarchy")["k"] == 3
    assert planted.settings_for("matching_pursuit", "uniform")["k"] == 3
    assert "residual_threshold" not in planted.settings_for("matching_pursuit", "uniform")
    assert planted.settings_for("topk", "readout")["n_latents"] == 64
    assert planted.train_spec("hierarchy", 10, 0).batch_tokens == 200
    assert planted.train_spec("uniform", 10, 0).batch_tokens == 512


@pytest.mark.parametrize("kind", list(VARIANTS))
def test_every_variant_is_built_on_every_world(kind):
    for name, world in planted.WORLDS.items():
        blueprint = build(kind, world.features.shape[1], planted.settings_for(kind, name))
        assert blueprint.sae.n_latents <= len(world.features)


def test_the_file_names_only_variants_and_worlds_there_are():
    plan = trials.plan()
    assert set(plan["settings"]) <= set(VARIANTS)
    assert set(plan["worlds"]) <= set(planted.WORLDS)
    for world in plan["worlds"].values():
        assert set(world.get("settings", {})) <= set(VARIANTS)


def test_rows_come_with_an_oracle_a_null_and_the_untrained(tiny_world):
    told = []
    rows = list(planted.run(kinds=["topk"], worlds=["tiny"], seeds=2, steps=20, report=lambda *a: told.append(a)))
    oracle, random, found = rows
    assert [row.name for row in rows] == ["oracle", "random", "topk"]
    assert oracle.median("mcc") == pytest.approx(1)
    assert random.median("mcc") < 0.8
    assert len(found.metrics["mcc"]) == 2
    assert found.metrics["mcc"][0] != found.metrics["mcc"][1]
    assert set(oracle.metrics) < set(found.metrics) == set(oracle.metrics) | {"untrained_mcc"}
    assert told[0] == (0, 2, "tiny topk seed 0")
    assert told[-1][:2] == (2, 2)
    json.dumps([row.document() for row in rows], allow_nan=False)


def test_a_variant_that_refuses_a_world_says_why(tiny_world):
    @VARIANTS.register("picky")
    def picky(d_model: int, *, n_latents: int = 8):
        raise SettingError("n_latents", "only primes")

    try:
        *_, row = planted.run(kinds=["picky"], worlds=["tiny"], seeds=1, steps=5)
    finally:
        VARIANTS.remove("picky")
    assert row.refused == "only primes"
    assert row.metrics == {}


def test_a_third_partys_variant_takes_part(tiny_world):
    VARIANTS.add("theirs", lambda d_model, *, n_latents=8, k=1: topk(d_model, n_latents=n_latents, k=k))
    try:
        *_, row = planted.run(kinds=["theirs"], worlds=["tiny"], seeds=1, steps=5)
    finally:
        VARIANTS.remove("theirs")
    assert row.settings == {"n_latents": 16, "k": 1}
    assert row.median("l0") <= 1


def test_unknown_names_are_refused():
    with pytest.raises(SaelabError, match=r"unknown SAE variant 'topkk'\n  fix: did you mean 'topk'"):
        list(planted.run(kinds=["topkk"]))
    with pytest.raises(SaelabError, match=r"unknown planted world 'zip'\n  fix: did you mean 'zipf'"):
        list(planted.run(worlds=["zip"]))


def test_the_command_prints_a_table_or_a_document(tiny_world, monkeypatch, capsys):
    arguments = ["saelab", "bench", "planted", "--only", "topk", "--world", "tiny", "--seeds", "1", "--steps", "5"]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        with pytest.raises(SystemExit) as left:
            app.main()
        assert left.value.code == 0
        return capsys.readouterr().out

    shown = run()
    for text in ("tiny", "oracle", "random", "topk", "medians of 1 seeds; 5 steps"):
        assert text in shown
    document = json.loads(run("--json"))
    assert document["steps"] == 5
    assert [row["name"] for row in document["rows"]] == ["oracle", "random", "topk"]
    assert set(document["rows"][2]["medians"]) >= {"mcc", "l0", "untrained_mcc", "fvu", "dead"}
