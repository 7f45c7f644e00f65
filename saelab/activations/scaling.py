"""Input centring and scaling, measured once from the stored training activations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.activations.store import Shard
from saelab.errors import SaelabError
from saelab.files import read_tensors

_TOKENS = 500_000
"""Rows the statistics are taken from, spread evenly over the training shards."""


def measure(directory: Path, shards: Sequence[Shard], hooks: Sequence[str]) -> dict[str, Any]:
    """By hook: `mean` `[d_hook]`, `mean_norm` and `mean_norm_centred` (of raw and centred activations),
    in raw units, and the `n_tokens` they come from. Accumulated in float64.

    Raises:
        SaelabError: all activations are equal.
    """
    train = [shard for shard in shards if shard.split == "train"]
    stride = max(1, -(-sum(shard.n_tokens for shard in train) // _TOKENS))
    out: dict[str, Any] = {}
    for hook in hooks:
        parts = (_rows(directory, shard, hook)[::stride] for shard in train)
        total, n_tokens, norms = torch.zeros(1, dtype=torch.float64), 0, 0.0
        for part in parts:
            total = total + part.double().sum(0)
            norms += float(part.float().norm(dim=1).double().sum())
            n_tokens += part.shape[0]
        mean = total / n_tokens
        centred = 0.0
        for shard in train:
            part = _rows(directory, shard, hook)[::stride]
            centred += float((part.float() - mean.float()).norm(dim=1).double().sum())
        if centred == 0:
            raise SaelabError(f"all activations at {hook} are equal", where=str(directory))
        out[hook] = {
            "mean": mean.float().tolist(),
            "mean_norm": norms / n_tokens,
            "mean_norm_centred": centred / n_tokens,
            "n_tokens": n_tokens,
        }
    return out


def _rows(directory: Path, shard: Shard, hook: str) -> Tensor:
    return read_tensors(directory / shard.file)[hook]
