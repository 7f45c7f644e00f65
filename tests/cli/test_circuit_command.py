"""`saelab circuit`: from one file to a table, a page and files for other tools; gone on with; refusals."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from saelab.circuits import METHODS, Anatomy, draw, mib_circuit
from saelab.circuits.findings import read
from saelab.lm.model import ModelSpec, load
from saelab.sae import build
from saelab.tasks import TASKS
from saelab.testing.planted_circuit import PlantedCircuit, PlantedTask, plant

CONFIG = """\
name: tiny
model: {{name: {model}, dtype: float32, device: cpu}}
task: planted
methods:
  exact: {{method: {{kind: patching}}, prompts: 6}}
  slopes: {{method: {{kind: attribution, mlps: true}}, prompts: 6}}
  edges: {{method: {{kind: eap}}, prompts: 6}}
  "<b>chance</b>": {{method: {{kind: random}}, prompts: 2}}
seeds: 2
truth: {{prompts: 12}}
curves: {{methods: [slopes, edges], prompts: 8, random: 2}}
together: {{heads: 3, sets: 2}}
circuit: {{heads: 6}}
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, PlantedCircuit]:
    directory = tmp_path_factory.mktemp("models") / "planted"
    return directory, plant(directory)


@pytest.fixture(autouse=True)
def planted_task():
    TASKS.add("planted", lambda tokenizer: PlantedTask())
    yield
    TASKS.remove("planted")


@pytest.fixture
def saelab(tmp_path, monkeypatch, capsys):
    """Run the command in this process, in an empty directory: its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)
    from saelab.cli import app

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saelab", *arguments])
        capsys.readouterr()
        try:
            app.main()
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def config(tmp_path, planted) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(model=planted[0]))
    return path


@pytest.mark.slow
def test_one_command_from_a_file_to_a_table_and_a_page(saelab, config, planted, tmp_path):
    code, out, err = saelab("circuit", "tiny.yaml")
    assert code == 0, err
    assert "AUC, ≥ 2 %" in out
    assert "1.000 ± 0.000" in out
    assert "<b>chance</b>" in out
    assert "runs/tiny/circuit.html" in out
    place = tmp_path / "runs" / "tiny"
    kept = {"circuit.yaml", "circuit.json", "circuit.html", "parts.json", "parts", "mib", "circuit.log", ".lock"}
    assert {path.name for path in place.iterdir()} == kept
    assert {path.name for path in (place / "mib").iterdir()} == {
        "exact.json",
        "slopes.json",
        "edges.json",
        "b-chance-b.json",
    }

    found = read(place)
    heads = sorted(head for heads in planted[1].circuit.values() for head in heads)
    assert sorted(found.circuit("slopes")) == heads
    nodes = json.loads((place / "mib" / "slopes.json").read_text())["nodes"]
    inside = [name for name, node in nodes.items() if node["in_graph"] and "h" in name]
    assert inside == [f"a{layer}.h{head}" for layer, head in heads]

    lm = load(ModelSpec(str(planted[0]), dtype="float32", device="cpu"))
    scores = METHODS["eap"]()(lm, draw("planted", 6, "train", 0, lm))
    edges = json.loads((place / "mib" / "edges.json").read_text())["edges"]
    whole = mib_circuit(scores, torch.zeros(found.shape), Anatomy.of(lm))["edges"]
    assert {name: edge["score"] for name, edge in edges.items()} == {
        name: pytest.approx(edge["score"]) for name, edge in whole.items()
    }
    assert json.loads((place / "mib" / "slopes.json").read_text())["edges"] == {}

    page = (place / "circuit.html").read_text()
    assert "<script" not in page
    assert "<b>chance" not in page
    assert "&lt;b&gt;chance" in page
    made = json.loads((place / "circuit.json").read_text())
    code, out, _ = saelab("circuit", "tiny.yaml", "--json")
    assert json.loads(out) == made  # nothing is run again


@pytest.mark.slow
def test_parts_that_are_made_are_used_again_and_fresh_starts_over(saelab, config, tmp_path):
    assert saelab("circuit", "tiny.yaml", "--only", "slopes", "-o", "seeds=1")[0] == 0
    place = tmp_path / "runs" / "tiny"
    parts = json.loads((place / "parts.json").read_text())["parts"]
    assert list(read(place).methods) == ["slopes"]
    (place / "circuit.json").unlink()  # as after a kill
    assert saelab("circuit", "tiny.yaml", "--only", "slopes", "--only", "<b>chance</b>")[0] == 0
    more = json.loads((place / "parts.json").read_text())["parts"]
    assert parts.items() <= more.items()
    assert read(place).seeds == 2
    assert {path.name for path in (place / "mib").iterdir()} == {"slopes.json", "b-chance-b.json"}
    assert saelab("circuit", "tiny.yaml", "--only", "<b>chance</b>")[0] == 0
    assert [path.name for path in (place / "mib").iterdir()] == ["b-chance-b.json"]
    assert saelab("circuit", "tiny.yaml", "--only", "<b>chance</b>", "--fresh")[0] == 0
    assert not any("attribution" in name for name in json.loads((place / "parts.json").read_text())["parts"])


@pytest.mark.slow
def test_latents_of_a_run_are_looked_at(saelab, config, planted, tmp_path, lm):
    from saelab.lm.mask import Mask, MaskSpec

    model = load(ModelSpec(str(planted[0]), dtype="float32", device="cpu"))
    hook = model.hook("blocks.1.hook_resid_post")
    torch.manual_seed(0)
    sae = build("topk", hook.width, {"n_latents": 64, "k": 6}).sae.inference()
    mask = Mask.of(MaskSpec(special_tokens=False), model.tokenizer).as_json()
    sae.identity.provenance = {"hook": hook.name, "mask": mask, "windows": {}, "model": model.identity}
    sae.save(tmp_path / "runs" / "sae-run" / "sae")
    more = ("--only", "slopes", "-o", "sae=runs/sae-run", "-o", "features.prompts=6", "-o", "features.latents=4")
    code, _, err = saelab("circuit", "tiny.yaml", *more, "-o", "seeds=1")
    assert code == 0, err
    found = read(tmp_path / "runs" / "tiny").features
    assert found is not None
    assert (found.run, found.layer, len(found.latents)) == ("runs/sae-run", 1, 4)
    assert all(layer <= 1 for layer, _ in found.heads)
    assert any(any(one.fed) for one in found.latents)
    assert "Latents of the SAE in runs/sae-run" in (tmp_path / "runs" / "tiny" / "circuit.html").read_text()

    parts = (tmp_path / "runs" / "tiny" / "parts.json").read_text()
    with torch.no_grad():
        sae.b_dec.add_(0.1)  # trained again, in the same place
    shutil.rmtree(tmp_path / "runs" / "sae-run" / "sae")
    sae.save(tmp_path / "runs" / "sae-run" / "sae")
    assert saelab("circuit", "tiny.yaml", *more, "-o", "seeds=1")[0] == 0
    again = read(tmp_path / "runs" / "tiny").features
    assert again is not None
    assert found.sae_sha256 != again.sae_sha256 == sae.sha256()
    assert (tmp_path / "runs" / "tiny" / "parts.json").read_text() == parts

    other = tmp_path / "runs" / "other"
    sae.identity.provenance["model"] = lm.identity
    sae.save(other / "sae")
    code, _, err = saelab("circuit", "tiny.yaml", *more, "-o", f"sae={other}", "--fresh")
    assert code == 2
    assert "this SAE was trained on another model" in err
    code, _, err = saelab("circuit", "tiny.yaml", *more, "-o", "sae=runs/none")
    assert code == 2
    assert "there is no trained SAE in this run" in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("task: plantd", "task: unknown task 'plantd'"),
        ("seeds: 0", "seeds: must be at least 1, found 0"),
        ("methods: {}", "methods: there is none"),
        ("methods: {a: {method: {kind: patchin}}}", "methods.a.method.kind"),
        ("methods: {a: {method: {kind: eap, steps: 3}}}", "methods.a.method.steps: unknown key"),
        ("methods: {a: {method: {kind: eap_ig, steps: 0}}}", "must be at least 1, found 0"),
        ("methods: {a: {method: {kind: eap, batch_prompts: 0}}}", "methods.a.method.batch_prompts: must be at least 1"),
        (
            "methods: {a: {method: {kind: sparse_codes}, prompts: 4}}",
            "methods.a.prompts: must be at least 5",
        ),
        ("methods: {a: {method: {kind: random, seed: 3}}}", "methods.a.method.seed"),
        ("methods: {a b: {method: {kind: random}}, a-b: {method: {kind: random}}}", "names differ by more"),
        ("curves: {methods: [slope]}", "curves.methods: 'slope' is not among the methods"),
        ("circuit: {method: slope}", "did you mean 'slopes'?"),
        ("truth: {cut_offs: [0.02, 0.02]}", "truth.cut_offs: one or more shares between 0 and 1"),
        ("truth: {prompts: 1}", "truth.prompts: must be at least 2, found 1"),
        ("nothing: 1", "nothing: unknown key"),
        ("name: a/b", "name: a name has up to 100 letters"),
    ],
)
def test_a_wrong_key_is_named_with_its_line(line: str, said: str, saelab, config):
    key = line.partition(":")[0]
    lines = config.read_text().splitlines()
    start = next((i for i, old in enumerate(lines) if old.startswith(f"{key}:")), len(lines))
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    config.write_text("\n".join([*lines[:start], line, *lines[end:]]))
    code, _, err = saelab("circuit", "tiny.yaml")
    assert code == 2
    assert said in err
    assert f"tiny.yaml:{start + 1}: " in err


def test_each_kind_of_config_has_its_command(saelab, config, tmp_path):
    assert "fix: saelab circuit tiny.yaml" in saelab("run", "tiny.yaml")[2]
    assert "fix: saelab run demo" in saelab("circuit", "demo")[2]
    assert "4 methods, 2 seeds" in saelab("config", "validate", "tiny.yaml")[1]
    assert "name: tiny" in saelab("config", "show", "tiny.yaml")[1]
    schema = json.loads(saelab("config", "schema", "--circuit")[1])
    assert schema["required"] == ["name", "model", "task"]
    assert "no method is called 'slope'" in saelab("circuit", "tiny.yaml", "--only", "slope")[2]
    assert not (tmp_path / "runs").exists()


def test_a_directory_of_other_things_is_left_alone(saelab, config, tmp_path):
    place = tmp_path / "runs" / "tiny"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("mine")
    code, _, err = saelab("circuit", "tiny.yaml", "--fresh")
    assert code == 2
    assert "this directory holds files that are not a run's" in err
    assert [path.name for path in place.iterdir()] == ["thesis.txt"]
