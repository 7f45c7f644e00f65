"""SAEs that other tools wrote, with what they make of some inputs; and saelab's own, in every form there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from saelab.files import write_json
from saelab.sae import SAE
from tests.interop.hub_stand_in import HubStandIn
from tests.interop.saes import LATENTS, D, K, random_sae

__all__ = ["FIXTURES", "LATENTS", "D", "K", "files_of", "foreign"]
FIXTURES = Path(__file__).parent / "fixtures"


@dataclass(frozen=True)
class Foreign:
    """An SAE as its own tool wrote it.

    Attributes:
        source: the directory, or the file.
        x: `[tok, d_in]`; code: `[tok, lat]`; recon: `[tok, d_out]`: by that tool.
    """

    source: Path
    x: Tensor
    code: Tensor
    recon: Tensor


def foreign(directory: Path) -> Foreign:
    """What `make_fixtures.py` left in `directory`."""
    files = [path for path in directory.iterdir() if path.suffix == ".pt" and path.name != "ae.pt"]
    return Foreign(files[0] if files else directory, **load_file(directory / "io.safetensors"))


ALL = sorted(path.parent.relative_to(FIXTURES).as_posix() for path in FIXTURES.rglob("io.safetensors"))


@pytest.fixture(params=ALL)
def there(request: pytest.FixtureRequest) -> Foreign:
    return foreign(FIXTURES / request.param)


@pytest.fixture
def make() -> Callable[..., SAE]:
    """See `random_sae`."""
    return random_sae


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
