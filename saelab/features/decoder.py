"""What can be said of latents from the decoder alone: the tokens they promote, their nearest ones, a map."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.features.bundle import LOGIT_BINS
from saelab.features.spec import IndexSpec, Map
from saelab.lm.model import LanguageModel

_BLOCK_BYTES = 128 * 2**20
_UMAP_LATENTS = range(500, 40_001)
"""Fewer have no shape to find; more take many minutes."""
UMAP_NEIGHBOURS = 15
_UMAP_EPOCHS = 200
_WRITES = re.compile(r"hook_resid_(pre|mid|post)$|hook_(attn|mlp)_out$|\.(attn|mlp)\.hook_out$|hook_embed$")

Arrays = dict[str, Tensor]
Report = Callable[[int, int], None]


def no_lens(hook: str) -> str | None:
    """Why what a hook carries cannot be read as logits; None where it can."""
    return None if _WRITES.search(hook) else f"{hook} does not write to the residual stream"


@torch.no_grad()
def logit_lens(W_dec: Tensor, lm: LanguageModel, listed: int, report: Report) -> Arrays:
    """The tokens that each `[latents, d_model]` row promotes and suppresses most, through the final norm and the
    unembedding, and a histogram of its logits between the extremes. Ties to the lower id."""
    found: list[Arrays] = []
    rows = max(1, _BLOCK_BYTES // 4 // lm.n_vocabulary)
    for start in range(0, len(W_dec), rows):
        logits = lm.direct_logits(W_dec[start : start + rows]).float().cpu()
        k = min(listed, logits.shape[1])
        top, bottom = logits.topk(k), (-logits).topk(k)
        low, high = -bottom.values[:, :1], top.values[:, :1]
        bins = ((logits - low) / (high - low).clamp_min(1e-20) * LOGIT_BINS).long().clamp_(0, LOGIT_BINS - 1)
        histogram = torch.zeros(len(logits), LOGIT_BINS, dtype=torch.int64)
        histogram.scatter_add_(1, bins, torch.ones((), dtype=torch.int64).expand_as(bins))
        found.append(
            {
                "top_tokens": _padded(top.indices.int(), listed),
                "top_logits": _padded(top.values, listed),
                "bottom_tokens": _padded(bottom.indices.int(), listed),
                "bottom_logits": _padded(-bottom.values, listed),
                "logit_histogram": histogram.int(),
            }
        )
        report(min(start + rows, len(W_dec)), len(W_dec))
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def without_lens(n_latents: int, listed: int) -> Arrays:
    """The same columns where there is nothing to say."""
    names: Arrays = {"logit_histogram": torch.zeros(n_latents, LOGIT_BINS, dtype=torch.int32)}
    for end in ("top", "bottom"):
        names[f"{end}_tokens"] = torch.full((n_latents, listed), -1, dtype=torch.int32)
        names[f"{end}_logits"] = torch.zeros(n_latents, listed)
    return names


@torch.no_grad()
def nearest(W_dec: Tensor, wanted: int, report: Report) -> tuple[Tensor, Tensor]:
    """Of each row the `wanted` others of largest cosine: `[latents, wanted]` numbers (int32, -1 where there are fewer)
    and cosines."""
    unit = torch.nn.functional.normalize(W_dec.float(), dim=1)
    k, rows = min(wanted, len(unit) - 1), max(1, _BLOCK_BYTES // 4 // len(unit))
    numbers, cosines = [], []
    for start in range(0, len(unit), rows):
        block = unit[start : start + rows] @ unit.T
        block[torch.arange(len(block)), torch.arange(start, start + len(block))] = -2
        found = block.topk(k)
        numbers.append(found.indices.int())
        cosines.append(found.values)
        report(min(start + rows, len(unit)), len(unit))
    return _padded(torch.cat(numbers), wanted), _padded(torch.cat(cosines), wanted)


def _padded(values: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=-1)


def kind_of_map(spec: IndexSpec, n_latents: int) -> Map:
    """What `auto` comes to.

    Raises:
        SaelabError: UMAP is asked for and not installed, or there are too few latents for it.
    """
    installed = find_spec("umap") is not None
    if spec.map == "auto":
        return "umap" if n_latents in _UMAP_LATENTS and installed else "pca"
    if spec.map == "umap" and not installed:
        raise SaelabError("UMAP is not installed", where="index.map", fix="pip install 'saelab[browser]', or map: pca")
    if spec.map == "umap" and n_latents <= UMAP_NEIGHBOURS:
        raise SaelabError(f"{n_latents} latents are too few for UMAP", where="index.map", fix="map: pca")
    return spec.map


def flat_map(W_dec: Tensor, kind: Map, neighbours: tuple[Tensor, Tensor], seed: int) -> Tensor:
    """`[latents, 2]`: the decoder's rows on a plane. UMAP is given the neighbours (by cosine) that are known."""
    if kind == "none" or len(W_dec) < 3:
        return torch.full((len(W_dec), 2), torch.nan)
    unit = torch.nn.functional.normalize(W_dec.float(), dim=1)
    torch.manual_seed(seed)
    u, s, _ = torch.pca_lowrank(unit, q=2)
    flat = u * s
    return flat if kind == "pca" else torch.from_numpy(_umap(unit, flat, neighbours, seed))


def _umap(unit: Tensor, start: Tensor, neighbours: tuple[Tensor, Tensor], seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, and that a seed means one thread
        import umap

        itself = torch.arange(len(unit), dtype=torch.int32)[:, None]
        numbers = torch.cat([itself, neighbours[0][:, : UMAP_NEIGHBOURS - 1]], 1).numpy()
        distances = torch.cat([torch.zeros(len(unit), 1), 1 - neighbours[1][:, : UMAP_NEIGHBOURS - 1]], 1).numpy()
        spread: Any = (start / start.std().clamp_min(1e-9) * 5).numpy()
        return umap.UMAP(
            n_neighbors=UMAP_NEIGHBOURS,
            metric="cosine",
            init=spread,
            precomputed_knn=(numbers, distances),
            n_epochs=_UMAP_EPOCHS,
            random_state=seed,
            force_approximation_algorithm=True,
        ).fit_transform(unit.numpy())
