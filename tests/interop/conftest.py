"""SAEs that other tools wrote, with what they make of some inputs; and saelab's own, in every form there is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saelab.sae import SAE, VARIANTS, Scaling, build

FIXTURES = Path(__file__).parent / "fixtures"
D, LATENTS, K = 16, 64, 6


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
    """A random SAE's inference form, its scaling folded in: every part of it matters."""

    def make(kind: str, d_out: int | None = None, **settings: Any) -> SAE:
        torch.manual_seed(0)
        skip = settings.pop("skip", False)
        known = inspect.signature(VARIANTS[kind]).parameters
        settings |= {name: value for name, value in {"k": K, "l0": 4}.items() if name in known}
        blueprint = build(kind, D, {"n_latents": LATENTS, **settings}, d_out, skip=skip)
        sae = blueprint.sae
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            if blueprint.unit_norm_decoder:
                sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        if not sae.coder.per_token:
            sae.calibrate(torch.randn(256, D))
        target = None if d_out is None else Scaling(torch.randn(d_out), 0.6)
        return sae.inference(Scaling(torch.randn(D), 1.7), target)

    return make
