"""SAEs from the hub, by a stand-in for it on this machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from saelab.errors import SaelabError
from saelab.files import read_json
from saelab.interop import hub as hub_module
from saelab.interop.hub import Address, fetched
from saelab.sae import SAE, build
from saelab.sae.foreign import FORMATS
from tests.interop.conftest import FIXTURES, files_of
from tests.interop.hub_stand_in import Repo

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


def test_safetensors_are_fetched_whole(hub):
    """A file that ends early is noticed by the client or by the reader."""
    repo = hub.repos["org/repo"] = Repo()
    weights = save({"W_enc": torch.zeros(2, 2)})[:-3]
    repo.commit({"cfg.json": b"{}", "sae_weights.safetensors": weights})
    with pytest.raises(SaelabError):
        SAE.load("hf://org/repo")


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
