"""SAEs that other tools wrote, with what they make of some inputs; and saelab's own, in every form there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from saelab.sae import SAE
from tests.interop.saes import LATENTS, D, K, random_sae

__all__ = ["FIXTURES", "LATENTS", "D", "K", "foreign"]
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
