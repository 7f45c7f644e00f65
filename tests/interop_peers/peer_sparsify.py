"""sparsify, by its own loaders; its trainer asks for a language model, so that its loss is minimised by hand."""
# pyright: reportMissingImports=false
# sparsify is installed in an environment of its own alone.

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

from .outcomes import Model, Train, Trained

FORMAT = "sparsify"
_TRAINED: dict[str, dict[str, Any]] = {
    "topk": {},
    "topk, decoder rows left free": {"normalize_decoder": False},
    "topk, Multi-TopK": {"multi_topk": True},
    "topk transcoder": {"transcode": True},
    "topk skip transcoder": {"transcode": True, "skip_connection": True},
}


def load(directory: Path) -> Model:
    """What saelab exported."""
    return _model(SparseCoder.load_from_disk(directory))


def load_from_hub(repo: str, path: str) -> Model:
    """As the card says."""
    return _model(SparseCoder.load_from_hub(repo, hookpoint=path))


def _model(sae: Any) -> Model:
    def code(x: Tensor) -> Tensor:
        values, latents, _ = sae.encode(x)
        return x.new_zeros(len(x), sae.num_latents).scatter_(1, latents, values)

    def recon(x: Tensor) -> Tensor:
        values, latents, _ = sae.encode(x)
        out = sae.decode(values, latents)
        return out if sae.W_skip is None else out + x @ sae.W_skip.mT

    return Model(code, recon)


def trained(x: Tensor, steps: int, n_latents: int) -> dict[str, Train]:
    """What trains an SAE for a few steps, by name."""
    target = x.roll(1, dims=1)

    def train(name: str) -> Trained:
        config = SparseCoderConfig(num_latents=n_latents, k=6, **_TRAINED[name])
        sae = SparseCoder(x.shape[1], config, dtype=torch.float32)
        optimiser = torch.optim.Adam(sae.parameters(), lr=3e-3)
        for step in range(steps):
            rows = torch.arange(step * 256, (step + 1) * 256) % len(x)
            if config.normalize_decoder:
                sae.set_decoder_norm_to_unit_norm()
            out = sae(x=x[rows], y=(target if config.transcode else x)[rows], dead_mask=None)
            (out.fvu + out.multi_topk_fvu / 8).backward()
            optimiser.step()
            optimiser.zero_grad()
        return Trained(sae.save_to_disk, _model(sae))

    return {name: partial(train, name) for name in _TRAINED}
