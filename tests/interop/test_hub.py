"""SAEs from the hub and onto it, by a stand-in for the hub on this machine."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save

from saelab.errors import SaelabError
from saelab.files import read_json, write_json
from saelab.interop import hub as hub_module
from saelab.interop.card import Card, Metric, code, prose
from saelab.interop.hub import Address, fetched
from saelab.sae import SAE, build
from saelab.sae.foreign import FORMATS
from tests.interop.conftest import FIXTURES, LATENTS, D
from tests.interop.hub_stand_in import HubStandIn, Repo


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    """The hub's client talks to the stand-in, and keeps what it fetches in a cache of the test's own."""
    from huggingface_hub import constants

    with HubStandIn() as stand_in:
        template = stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": stand_in.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield stand_in


def files_of(directory: Path, below: str = "") -> dict[str, bytes]:
    return {
        below + path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def sae(make) -> SAE:
    sae = make("topk")
    sae.identity.provenance = {
        "model": {"name": "gpt2", "content": "commit 123"},
        "hook": "blocks.7.hook_resid_post",
        "data": {"hub": "some/text", "subset": "default", "revision": "1", "split": "train", "text_column": "text"},
        "windows": {"context_length": 96, "prepend_bos": True},
        "mask": {"first_position": True, "special": [0, 2], "norm_limits": {"blocks.7.hook_resid_post": 40.0}},
        "trained_tokens": 123_456,
    }
    return sae


@pytest.fixture
def run(sae: SAE, tmp_path: Path) -> Path:
    """A finished and measured run."""
    directory = tmp_path / "runs" / "mine"
    sae.save(directory / "sae")
    (directory / "config.yaml").write_text(
        "name: mine\nruns_dir: /home/someone/runs\ndata: {dataset: /home/someone/secret/text.jsonl}\n"
        "sae: {kind: topk, n_latents: 64, k: 6}\n"
    )
    entry = {
        "metrics": {"fvu": 0.25, "l0": 6.0},
        "n_tokens": 36_062,
        "intervals": {"fvu": [0.2, 0.3]},
        "meaning": {"fvu": "share of variance | not reconstructed"},
    }
    probing = {"metrics": {"accuracy": 0.75}, "n_tokens": 0, "n_examples": 100}
    evaluations = {"probing": probing, "reconstruction": entry}
    write_json(directory / "eval.json", {"sae_sha256": sae.sha256(), "evaluations": evaluations})
    return directory


# -- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://org/repo", Address("org/repo")),
        ("hf://org/repo/", Address("org/repo")),
        ("hf://org/re.po-1/a/b", Address("org/re.po-1", None, "a/b")),
        ("hf://org/repo@v1.0/layer 3", Address("org/repo", "v1.0", "layer 3")),
        ("hf://org/repo@refs%2Fpr%2F1", Address("org/repo", "refs/pr/1")),
        ("hf://org/repo@refs/pr/1/a", Address("org/repo", "refs/pr/1", "a")),
        ("hf://models/org/repo@v1/a", Address("org/repo", "v1", "a")),
        ("hf://_org/" + "a" * 90, Address("_org/" + "a" * 90)),
    ],
)
def test_an_address_has_a_repository_a_revision_and_a_path(text, address):
    assert Address.of(text) == address
    assert Address.of(str(address)) == address  # what an error shows can be asked for again


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://repo",
        "hf:///repo/x",
        "hf://org/../../etc",
        "hf://org/repo/../../../etc/passwd",
        "hf://org/repo/a//b",
        "hf://org/repo/./b",
        "hf://org/repo/a\\..\\b",
        "hf://org/repo/a\nb",
        "hf://org/repo@\x1b[2J/a",
        "hf://org/repo@%1b[2J/a",
        "hf://org/repo@..%2F..%2Fx/a",
        "hf://datasets/org/repo",
        "hf://../repo",
        "hf://o..rg/repo",
        "hf://org/-repo",
        "hf://org/re po",
        "hf://org/" + "a" * 100,
    ],
)
def test_what_leaves_a_repository_or_names_none_is_an_error_before_anything_is_asked(hub, text):
    with pytest.raises(
        SaelabError, match=r"not an address|no path inside|names no repo|no revision|no repository of models"
    ) as error:
        SAE.load(text)
    assert str(error.value).replace("\n", "").isprintable()
    assert hub.log == []


def test_another_place_is_unknown():
    with pytest.raises(SaelabError, match="unknown place to load SAEs from 's3'"):
        SAE.load("s3://bucket/sae")


# -- fetching ----------------------------------------------------------------------------------------------------


def test_an_sae_loads_from_a_directory_of_a_repository(hub, sae, tmp_path):
    sae.save(tmp_path / "sae")
    other = {"README.md": b"#", "layers/5/notes.txt": b"x", "evil.py": b"raise SystemExit"}
    repo = hub.repos["org/repo"] = Repo()
    repo.commit(other | files_of(tmp_path / "sae", "layers/5/"))
    assert SAE.load("hf://org/repo/layers/5").sha256() == sae.sha256()
    assert sorted(hub.downloads()) == ["layers/5/config.json", "layers/5/weights.safetensors"]


@pytest.mark.parametrize("name", ["saelens/topk", "sparsify/layers.5", "dictionary_learning/gated"])
def test_other_tools_repositories_are_read(hub, name):
    repo = hub.repos["org/repo"] = Repo()
    repo.commit(files_of(FIXTURES / name, "some/where/layers.5/"))
    loaded, local = SAE.load("hf://org/repo/some/where/layers.5"), SAE.load(FIXTURES / name)
    assert loaded.sha256() == local.sha256()
    assert "some/where/layers.5/io.safetensors" not in hub.downloads()


def test_directories_that_say_where_an_sae_belongs_still_say_so(hub):
    """The client's cache keeps files under their hashes, and the paths of the repository as links to them."""
    inside = "layer_20/width_16k/average_l0_71"
    repo = hub.repos["google/gemma-scope-2b-pt-res"] = Repo()
    repo.commit(files_of(FIXTURES / "gemma_scope/gemma-scope-2b-pt-res" / inside, inside + "/"))
    for path in (inside, inside + "/params.npz"):
        loaded = SAE.load(f"hf://google/gemma-scope-2b-pt-res/{path}")
        origin = loaded.identity.provenance["imported"]["origin"]
        assert (origin["model"], origin["hook"]) == ("google/gemma-2-2b", "blocks.20.hook_resid_post")


def test_a_file_can_be_an_sae_by_itself(hub):
    repo = hub.repos["openai/sae"] = Repo()
    repo.commit({"v1/7.pt": (FIXTURES / "openai/relu/7.pt").read_bytes(), "v1/8.pt": b"no"})
    assert SAE.load("hf://openai/sae/v1/7.pt").sha256() == SAE.load(FIXTURES / "openai/relu/7.pt").sha256()
    assert hub.downloads() == ["v1/7.pt"]


def test_revisions_are_told_apart(hub, make, tmp_path):
    repo, saes = Repo(), [make("topk"), make("relu")]
    hub.repos["org/repo"] = repo
    commits = []
    for number, sae in enumerate(saes):
        sae.save(tmp_path / str(number))
        commits.append(repo.commit(files_of(tmp_path / str(number))))
    repo.names |= {"old": commits[0], "refs/pr/1": commits[0]}
    for revision, sae in (("@old", saes[0]), (f"@{commits[0]}", saes[0]), ("@refs%2Fpr%2F1", saes[0]), ("", saes[1])):
        assert SAE.load(f"hf://org/repo{revision}").sha256() == sae.sha256(), revision
    with pytest.raises(SaelabError, match="no revision 'new'"):
        SAE.load("hf://org/repo@new")


def test_what_was_fetched_loads_without_a_connection(hub, sae, tmp_path, monkeypatch):
    from huggingface_hub import constants

    sae.save(tmp_path / "sae")
    repo = hub.repos["org/repo"] = Repo()
    repo.commit(files_of(tmp_path / "sae"))
    SAE.load("hf://org/repo")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()
    assert SAE.load("hf://org/repo").sha256() == sae.sha256()
    with pytest.raises(SaelabError, match=r"hf://org/other: the hub cannot be reached.*\n  fix: check the connection"):
        SAE.load("hf://org/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.down = True
    assert SAE.load("hf://org/repo").sha256() == sae.sha256()
    hub.log.clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert SAE.load("hf://org/repo").sha256() == sae.sha256()
    with pytest.raises(SaelabError, match="the hub cannot be reached"):
        SAE.load("hf://org/other")
    assert hub.log == []


def test_a_part_of_an_sae_is_not_what_was_fetched_before(hub, sae, tmp_path):
    sae.save(tmp_path / "sae")
    repo = hub.repos["org/repo"] = Repo()
    repo.commit(files_of(tmp_path / "sae"))
    hub_module._download(Address("org/repo"), "config.json")
    hub.down = True
    with pytest.raises(SaelabError, match=r"hf://org/repo: the hub cannot be reached"):
        SAE.load("hf://org/repo")


def test_only_what_the_hub_does_is_called_its_fault(hub, sae, tmp_path, monkeypatch):
    sae.save(tmp_path / "sae")
    hub.repos["org/repo"] = Repo()
    hub.repos["org/repo"].commit(files_of(tmp_path / "sae"))

    def fails(error):
        def client():
            raise error

        return client

    with monkeypatch.context() as patch:
        patch.setattr(hub_module, "_download", lambda *_: fails(OSError(errno.ENOSPC, "No space left on device"))())
        with pytest.raises(SaelabError, match=r"cannot be kept: No space left.*\n  fix: make room"):
            SAE.load("hf://org/repo")
    for own in (OSError(errno.EACCES, "Permission denied", "cache"), OSError(errno.ENOSPC, "No space left")):
        with monkeypatch.context() as patch:
            patch.setattr(hub_module, "_client", fails(own))
            with pytest.raises(SaelabError, match="what is fetched cannot be kept"):
                SAE.load("hf://org/repo")
    with monkeypatch.context() as patch:
        patch.setattr(hub_module, "_chosen", lambda *_, **__: [][0])
        with pytest.raises(IndexError):
            SAE.load("hf://org/repo")
    with monkeypatch.context() as patch:
        patch.setattr(hub_module, "_client", fails(ValueError("what?\x1b[2J")))
        with pytest.raises(SaelabError, match=r"cannot be reached, or not understood: what\?\[2J"):
            SAE.load("hf://org/repo")


def test_a_download_that_breaks_off_is_not_a_missing_file(hub, sae, tmp_path, monkeypatch):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalEntryNotFoundError

    sae.save(tmp_path / "sae")
    hub.repos["org/repo"] = Repo()
    hub.repos["org/repo"].commit(files_of(tmp_path / "sae"))

    def broken(*_, **__):
        raise LocalEntryNotFoundError("no connection, and nothing in the cache")

    monkeypatch.setattr(HfApi, "hf_hub_download", broken)
    with pytest.raises(SaelabError, match=r"the hub cannot be reached.*no connection"):
        SAE.load("hf://org/repo")


def test_what_is_not_there_is_said_and_what_might_be_meant(hub, sae, tmp_path):
    sae.save(tmp_path / "sae")
    repo = hub.repos["org/repo"] = Repo()
    repo.commit(files_of(tmp_path / "sae", "layers/5/") | {"config.json": b"{}", "model.safetensors": b"0"})
    with pytest.raises(SaelabError, match=r"no SAE here in a form that saelab knows\n  fix: .*directories: 'layers'"):
        SAE.load("hf://org/repo")
    assert hub.downloads() == []
    with pytest.raises(SaelabError, match=r"no SAE here .*\n  fix: name a directory"):
        SAE.load("hf://org/repo/layers/6")
    with pytest.raises(SaelabError, match="no SAE here"):
        SAE.load("hf://org/repo/layers/7.pt")
    with pytest.raises(SaelabError, match=r"no such repository, or it is private.*\n  fix: hf auth login"):
        SAE.load("hf://org/none")
    repo.private = True
    with pytest.raises(SaelabError, match="no such repository, or it is private"):
        SAE.load("hf://org/repo/layers/5")


def test_two_tools_in_one_directory_are_ambiguous(hub):
    repo = hub.repos["org/repo"] = Repo()
    repo.commit(files_of(FIXTURES / "saelens/topk") | files_of(FIXTURES / "sparsify/layers.5"))
    with pytest.raises(SaelabError, match=r"several tools \(sae_weights.safetensors, sae.safetensors\)"):
        SAE.load("hf://org/repo")
    assert hub.downloads() == []


def test_every_format_can_be_fetched():
    """What `recognises` looks for is among what is asked for."""
    wanted = {frozenset(names) for names in hub_module._BY_WEIGHTS.values()}
    for name in FORMATS:
        example = next(path.parent for path in (FIXTURES / name).rglob("io.safetensors"))
        found = {path.name for path in example.iterdir()} - {"io.safetensors"}
        single = name == "openai" and all(Path(file).suffix in hub_module._SINGLE for file in found)
        assert single or found in wanted, name


# -- hostile repositories ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2**36 + 1, 10**30])
def test_sizes_that_no_sae_has_are_refused_unfetched(hub, sae, tmp_path, size):
    sae.save(tmp_path / "sae")
    repo = hub.repos["org/repo"] = Repo(declared={"weights.safetensors": size})
    repo.commit(files_of(tmp_path / "sae"))
    with pytest.raises(SaelabError, match="which is no size for such a file"):
        SAE.load("hf://org/repo")
    repo.declared = {"config.json": 2**24 + 1}
    with pytest.raises(SaelabError, match=r"config.json has 16,777,217 bytes"):
        SAE.load("hf://org/repo")
    assert hub.downloads() == []


def test_what_does_not_fit_the_disk_is_not_begun(hub, sae, tmp_path, monkeypatch):
    sae.save(tmp_path / "sae")
    repo = hub.repos["org/repo"] = Repo(declared={"weights.safetensors": 2**35})
    repo.commit(files_of(tmp_path / "sae"))
    usage = type(os)("usage")
    usage.free = 2**20  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SaelabError, match=r"have 34,359,\d+,\d+ bytes, and 1,048,576 are free at .*\n  fix: make room"):
        SAE.load("hf://org/repo")
    assert hub.downloads() == []


def test_a_pickle_with_code_is_not_run(hub, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "run",)

    torch.save({"k": Evil()}, tmp_path / "ae.pt")
    config = (FIXTURES / "dictionary_learning/topk/config.json").read_bytes()
    repo = hub.repos["org/repo"] = Repo()
    evil = (tmp_path / "ae.pt").read_bytes()
    repo.commit({"ae.pt": evil, "config.json": config, "raw.pt": pickle.dumps(Evil()), "whole.pt": evil})
    for source in ("hf://org/repo", "hf://org/repo/raw.pt", "hf://org/repo/whole.pt"):
        with pytest.raises(SaelabError):
            SAE.load(source)
    assert not (tmp_path / "run").exists()


def test_links_and_other_names_in_a_listing_are_nothing_to_follow(hub, sae, tmp_path, monkeypatch):
    """A link is a file that holds a path there; a listing may claim names that nobody asked for."""
    sae.save(tmp_path / "sae")
    repo = hub.repos["org/repo"] = Repo()
    repo.commit(files_of(tmp_path / "sae") | {"weights.safetensors": b"../../../../etc/passwd"})
    with pytest.raises(SaelabError, match="not a readable safetensors file"):
        SAE.load("hf://org/repo")
    from tests.interop import hub_stand_in

    stranger = {"type": "file", "path": "../../../weights.safetensors", "size": 3, "oid": "0" * 40}
    monkeypatch.setattr(hub_stand_in._Handler, "_entry", lambda *_: stranger)
    hub.log.clear()
    with pytest.raises(SaelabError, match="no SAE here"):
        SAE.load("hf://org/repo")
    assert hub.downloads() == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'[{"path": 3}]', b"<html>", b'{"error": "x"}', b"null"])
def test_answers_that_mean_nothing_are_an_error(hub, monkeypatch, body):
    from tests.interop import hub_stand_in

    hub.repos["org/repo"] = Repo()
    monkeypatch.setattr(hub_stand_in._Handler, "_json", lambda handler, value: handler._send(200, body))
    with pytest.raises(
        SaelabError, match=r"hf://org/repo: (there is no SAE here|the hub cannot be reached, or not un)"
    ):
        fetched("hf://org/repo")


# -- pushing -----------------------------------------------------------------------------------------------------


def pushed(*arguments: object) -> Any:
    from typer.testing import CliRunner

    from saelab.cli.app import app

    return CliRunner().invoke(app, ["push", *map(str, arguments)], catch_exceptions=False)


def test_a_run_is_published_and_loads_again_in_every_format(hub, run, sae):
    pushed(run, "org/mine", "--format", "saelens", "--format", "sparsify", "--format", "dictionary_learning")
    files = hub.repos["org/mine"].files
    assert sorted(files) == [
        "README.md",
        "config.json",
        "dictionary_learning/ae.pt",
        "dictionary_learning/config.json",
        "saelens/cfg.json",
        "saelens/sae_weights.safetensors",
        "sparsify/layers.7/cfg.json",
        "sparsify/layers.7/sae.safetensors",
        "weights.safetensors",
    ]
    assert len(hub.repos["org/mine"].commits) == 1
    assert SAE.load("hf://org/mine").sha256() == sae.sha256()
    x = torch.randn(5, D)
    for path in ("saelens", "sparsify/layers.7", "dictionary_learning"):
        torch.testing.assert_close(SAE.load(f"hf://org/mine/{path}")(x), sae(x))
    assert files["README.md"] == (run / "card.md").read_bytes()


def test_the_usual_formats_go_along_and_what_cannot_is_said(hub, run, make):
    import shutil

    shutil.rmtree(run / "sae")
    other = make("batch_topk")
    other.save(run / "sae")
    (run / "eval.json").unlink()
    result = pushed(run, "org/mine")
    assert {path.partition("/")[0] for path in hub.repos["org/mine"].files} == {
        "README.md",
        "config.json",
        "weights.safetensors",
        "saelens",
    }
    assert "sparsify cannot hold this SAE" in result.output
    card = hub.repos["org/mine"].files["README.md"].decode()
    assert "Not with sparsify: sparsify cannot hold this SAE" in card
    assert "None were made." in card
    with pytest.raises(SaelabError, match="sparsify cannot hold this SAE"):
        pushed(run, "org/mine", "--format", "sparsify")


def test_a_dry_run_uploads_nothing_and_leaves_the_card_to_look_at(hub, run):
    result = pushed(run, "org/mine", "--dry-run", "--json")
    said = json.loads(result.output)
    assert said["url"] is None
    assert said["sizes"]["weights.safetensors"] == (run / "sae" / "weights.safetensors").stat().st_size
    assert "saelens/cfg.json" in said["sizes"]
    assert (run / "card.md").read_text().startswith("---\nlibrary_name: saelab\n")
    assert (hub.log, hub.repos) == ([], {})


def test_pushing_again_takes_away_what_is_no_longer_there(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    pushed(run, "org/mine", "--private")
    assert hub.repos["org/mine"].private
    before = hub.repos["org/mine"]
    before.commit(before.files | {"picture.png": b"1", "saelens/old.json": b"{}"})
    done = pushed(run, "org/mine", "--format", "saelab")
    assert "removed  saelens/old.json" in done.output
    assert sorted(before.files) == ["README.md", "config.json", "picture.png", "weights.safetensors"]


def test_a_card_of_one_s_own_is_taken(hub, run, tmp_path):
    (tmp_path / "mine.md").write_text("# Mine")
    pushed(run, "org/mine", "--card", tmp_path / "mine.md")
    assert hub.repos["org/mine"].files["README.md"] == b"# Mine"
    assert not (run / "card.md").exists()
    with pytest.raises(SaelabError, match="there is no such file"):
        pushed(run, "org/mine", "--card", tmp_path / "none.md")


def test_what_must_not_be_overwritten_is_not(hub, run):
    for files in (
        {"config.json": b"{}", "model.safetensors": b"0"},
        {"config.json": b"{}"},
        {"data.csv": b"1"},
        {"saelens/layer5/cfg.json": b"{}", "README.md": b"somebody's"},
        {"config.json": b"{}", "weights.safetensors": b"0"},
        {"config.json": b"\xff", "weights.safetensors": b"0"},
    ):
        repo = hub.repos["org/model"] = Repo()
        repo.commit(files)
        with pytest.raises(SaelabError, match=r"holds files that no SAE here has .*\n  fix: choose another name"):
            pushed(run, "org/model")
        assert len(repo.commits) == 1


def test_whether_a_repository_is_private_is_its_owner_s_to_say(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    pushed(run, "org/mine")
    assert hub.asked["org/mine"] == {}
    with pytest.raises(SaelabError, match=r"hf://org/mine: this repository is public\n  fix: make it private"):
        pushed(run, "org/mine", "--private")
    assert len(hub.repos["org/mine"].commits) == 1


def test_no_room_for_an_export_is_no_format_s_fault(run, monkeypatch):
    from saelab import interop

    def full(*_):
        raise SaelabError("could not write this file: the disk is full")

    monkeypatch.setattr(interop, "export", full)
    with pytest.raises(SaelabError, match="the disk is full"):
        pushed(run, "org/mine", "--dry-run")
    assert not (run / "card.md").exists()


def test_what_cannot_be_pushed_is_said(hub, run, tmp_path):
    with pytest.raises(SaelabError, match="names no repository"):
        pushed(run, "mine")
    with pytest.raises(SaelabError, match="no trained SAE here"):
        pushed(tmp_path / "none", "org/mine")
    with pytest.raises(SaelabError, match=r"'saelense' cannot be pushed\n  fix: did you mean 'saelens'"):
        pushed(run, "org/mine", "--format", "saelense")
    hub.read_only = True
    with pytest.raises(SaelabError, match=r"hf://org/mine: the hub refuses this: .*\n  fix: hf auth login"):
        pushed(run, "org/mine")
    document = json.loads((run / "eval.json").read_text())
    write_json(run / "eval.json", document | {"sae_sha256": "other"})
    with pytest.raises(SaelabError, match="measurements of another SAE"):
        pushed(run, "org/mine")


@pytest.mark.slow
def test_the_command_line_reads_the_hub_s_own_settings(hub, run, tmp_path):
    """As a user does it: a process of its own, with HF_ENDPOINT."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "saelab.cli", "push", str(run), "org/mine"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "weights.safetensors" in done.stdout
    assert SAE.load("hf://org/mine").n_latents == LATENTS


@pytest.mark.slow
def test_a_repository_becomes_a_run(hub, tmp_path, tiny_model_dir, tiny_text_file):
    from typer.testing import CliRunner

    from saelab.cli.app import app

    sae = build("topk", 32, {"n_latents": 64, "k": 4}).sae.inference()
    sae.identity.provenance = {"hook": "blocks.1.hook_resid_post"}
    sae.save(tmp_path / "sae")
    repo = hub.repos["org/repo"] = Repo()
    repo.commit(files_of(tmp_path / "sae", "layers/1/"))
    options = ["--model", str(tiny_model_dir), "--data", str(tiny_text_file), "-o", "windows.context_length=32"]
    source, place = "hf://org/repo/layers/1", tmp_path / "runs" / "from-hub"
    done = CliRunner().invoke(app, ["import", source, str(place), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert read_json(place / "summary.json")["imported"]["from"] == source
    assert torch.equal(SAE.load(place / "sae").W_dec, sae.W_dec)


# -- the card ----------------------------------------------------------------------------------------------------


def test_the_card_says_what_it_is_how_it_measures_and_how_to_load_it(run, hub):
    pushed(run, "org/mine")
    text = (run / "card.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "library_name": "saelab",
        "tags": ["sparse-autoencoder", "mechanistic-interpretability", "saelab", "saelens", "sparsify"],
        "base_model": "gpt2",
        "datasets": ["some/text"],
    }
    for part in (
        "# mine",
        "| Trained on | 123,456 tokens |",
        "| `fvu` | 0.25 | 0.2 to 0.3 | 36,062 tokens | share of variance \\| not reconstructed |",
        "<details><summary>probing</summary>",
        "| `accuracy` | 0.75 |  | 100 examples |  |",
        "position 0 of every context; the special tokens with the ids \\[0, 2\\]; activations longer than 40",
        'SAE.load("hf://org/mine")',
        'SAE.from_pretrained("org/mine", "saelens")',
        'SparseCoder.load_from_hub("org/mine", hookpoint="sparsify/layers.7")',
        "k: 6",
        "dataset: '.../text.jsonl'",
    ):
        assert part in text, part
    assert "someone" not in text


def test_the_card_claims_nothing_that_saelab_cannot_know(make):
    sae = make("relu")
    assert "trained with saelab" in Card("org/mine", "mine", sae).text()
    sae.identity.provenance = {"data": {"files": {"train/x.jsonl": "1"}, "text_column": "text"}}
    text = Card("org/mine", "mine", sae).text()
    assert "`train/x.jsonl`" in text
    assert "datasets" not in yaml.safe_load(text.split("---\n")[1])
    there = SAE.load(FIXTURES / "saelens" / "topk")
    text = Card("org/mine", "mine", there, metrics={"reconstruction": [Metric("fvu", 1.0, "9 tokens")]}).text()
    assert "brought into saelab's format from that of SAELens" in text
    assert "whether training had seen it is not known" in text
    assert "training did not see" not in text
    assert "trained with saelab" not in text


def test_nobody_s_text_means_anything_in_a_card(make):
    evil = "x` | </td><script>alert(1)</script>\n---\nlicense: evil\n# [a](javascript:b) ![c](d) `` ``` *e*"
    sae = make("topk")
    sae.identity.provenance = {"hook": evil, "data": {"dataset": evil}, "model": {"name": evil}, "trained_tokens": evil}
    metrics = {evil: [Metric(evil, 1.0, evil, None, evil)]}
    text = Card("org/mine", evil, sae, evil, metrics, f"a: 1\n```\n{evil}", {}, {"saelens": evil}).text()
    front, _, body = text.removeprefix("---\n").partition("---\n")
    assert set(yaml.safe_load(front)) == {"library_name", "tags"}
    outside = "".join(body.split("````yaml")[0])
    for line in outside.splitlines():
        assert not line.startswith(("---", "license", "# [")), line
    html = rendered(text)
    assert "<script" not in html
    assert "javascript:" not in html.replace("javascript:b)", "")
    assert "<img" not in html
    assert "<em>" not in html


def rendered(text: str) -> str:
    """As HTML, by a Markdown library that lets HTML through as GitHub and the hub do before they filter it."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])


def test_prose_and_code_hold_what_they_are_given():
    assert prose("a|b\n<c>") == r"a\|b \<c\>"
    assert code("a`b") == "``a`b``"
    assert code("`") == "`` ` ``"
    assert code("a|b\n") == r"`a\|b`"
    assert prose("blocks.7.hook") == "blocks.7.hook"


def test_safetensors_are_fetched_whole(hub):
    """A file that ends early is noticed by the client or by the reader."""
    repo = hub.repos["org/repo"] = Repo()
    weights = save({"W_enc": torch.zeros(2, 2)})[:-3]
    repo.commit({"cfg.json": b"{}", "sae_weights.safetensors": weights})
    with pytest.raises(SaelabError):
        SAE.load("hf://org/repo")
