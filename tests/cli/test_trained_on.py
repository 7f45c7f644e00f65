"""A finished run is measured in the model and on the text it was trained on, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from saelab.cli.trained_on import check_trained_on
from saelab.errors import SaelabError
from saelab.files import read_json, read_tensors, write_tensors
from tests.cli.test_cli import refused, saelab

__all__ = ["saelab"]  # a fixture

MODEL = {"name": "m", "content": "config.json=1;model.safetensors=2", "tokenizer": "3", "dtype": "float32"}
TRAINED: dict[str, Any] = {
    "model": MODEL,
    "data": {"files": {"a.txt": "1", "b.txt": "2"}, "text_column": "text"},
    "windows": {"context_length": 32},
    "mask": {"first_position": True, "special": [0], "norm_limits": {"a": 3.0}},
}


def test_what_is_the_same_is_no_matter():
    assert check_trained_on(TRAINED, TRAINED) is None
    assert check_trained_on(TRAINED, {"model": MODEL | {"name": "moved"}}) is None
    assert check_trained_on({}, TRAINED) is None
    limits = {"mask": TRAINED["mask"] | {"norm_limits": {}}}
    assert check_trained_on(TRAINED, TRAINED | limits) is None
    imported = TRAINED | {"data": {"dataset": "some/text"}}  # a name fixes no text
    assert check_trained_on(imported, TRAINED) is None


def test_another_dtype_is_a_note():
    found = check_trained_on(TRAINED, TRAINED | {"model": MODEL | {"dtype": "bfloat16"}})
    assert found == "the SAE was trained on float32 passes of the model, and these are bfloat16"


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("model", {"content": "config.json=1;model.safetensors=9"}, "model m: .* another model: model.safetensors was"),
        ("model", {"content": "commit 77"}, "another model: commit was missing and is 77; config.json was 1"),
        ("model", {"tokenizer": "4"}, "another model: tokenizer was 3 and is 4"),
        ("data", {"files": {"a.txt": "1", "b.txt": "9"}}, "data: .* other text: b.txt was 2 and is 9"),
        ("data", {"text_column": "body"}, "other text: text_column was text and is body"),
        ("windows", {"context_length": 64}, "in other windows: context_length was 32 and is 64"),
        ("mask", {"special": []}, r"other positions: special was \[0\] and is \[\]"),
    ],
)
def test_what_is_another_is_named(section, change, message):
    with pytest.raises(SaelabError, match=message):
        check_trained_on(TRAINED, TRAINED | {section: TRAINED[section] | change})


@pytest.mark.slow
def test_a_finished_run_keeps_to_its_model_and_its_text(saelab, config_text, tiny_model_dir, tiny_text_file, own_cache):
    model, text = Path("model"), Path("text.jsonl")
    shutil.copytree(tiny_model_dir, model)
    shutil.copy(tiny_text_file, text)
    config = config_text().replace(str(tiny_model_dir), str(model)).replace(str(tiny_text_file), str(text))
    Path("tiny.yaml").write_text(config.split("eval:")[0] + "eval: {reconstruction: {}}\nindex: null\n")
    measured = ("eval", "runs/tiny", "--again", "--json")

    def fvu() -> float:
        done = saelab(*measured)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["evaluations"]["reconstruction"]["metrics"]["fvu"]

    done = saelab("run", "tiny.yaml", "-o", "train.tokens=1280")
    assert done.returncode == 0, done.stderr
    before = fvu()
    (store,) = own_cache.glob("activations/*")
    said = read_json(Path("runs/tiny/summary.json"))["store"]
    assert Path(said["directory"]) == store
    assert said["content_sha256"] == read_json(store / "manifest.json")["content_sha256"]

    # The text is not looked at while the store is there; without either, that is said.
    text.rename("moved.jsonl")
    assert fvu() == before
    other = "".join(json.dumps({"text": f"text {i} of another kind, " * 20}) + "\n" for i in range(40))
    text.write_text(other)
    assert fvu() == before
    store.rename(own_cache / "away")
    refused(saelab(*measured), "data: this SAE was trained on other text: text.jsonl was", "saelab index RUN --data")
    text.unlink()
    refused(saelab(*measured), "text.jsonl")
    assert not store.exists()
    assert saelab("index", "runs/tiny", "--data", "moved.jsonl", "--tokens", "800").returncode == 0
    (own_cache / "away").rename(store)

    weights = model / "model.safetensors"
    tensors = read_tensors(weights)
    write_tensors(weights, {name: value * 1.5 for name, value in tensors.items()}, {"format": "pt"})
    stores = set(own_cache.glob("activations/*"))
    again = ("index", "runs/tiny", "--data", "moved.jsonl", "--tokens", "800")
    for command in (measured, ("train", "tiny.yaml", "-o", "train.tokens=1280"), again):
        refused(saelab(*command), "model model: this SAE was trained on another model: model.safetensors was")
    assert set(own_cache.glob("activations/*")) == stores
    Path("moved.jsonl").rename(text)
    done = saelab("train", "tiny.yaml", "-o", "train.tokens=1280", "--fresh")
    assert done.returncode == 0, done.stderr
    assert fvu() > 0
