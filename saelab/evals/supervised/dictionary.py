"""Dictionaries of known attributes, fitted to activations: what an SAE would find if it were told what to look for.

Source: Makelov, Lange and Nanda 2024 (arXiv 2405.08366).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Fit = Literal["mean", "mse"]


@dataclass(frozen=True, eq=False)
class Written:
    """Activations as a dictionary writes them.

    Attributes:
        recon: `[example, d]`.
        latents: `[example, width]` int64, the active ones.
        values: `[example, width]`: their activations; 0 is padding.
    """

    recon: Tensor
    latents: Tensor
    values: Tensor

    def __getitem__(self, examples: slice) -> Written:
        return Written(self.recon[examples], self.latents[examples], self.values[examples])

    def terms(self, rows: Tensor) -> Tensor:
        """`[example, width, d]`: what each latent adds, of a dictionary's `[latent, d]` rows."""
        return self.values[..., None] * rows[self.latents]

    def only(self, latents: Tensor) -> Written:
        """With all other latents at 0."""
        return replace(self, values=self.values * torch.isin(self.latents, latents))

    def dense(self) -> tuple[Tensor, Tensor]:
        """`[example, column]` codes of the latents that are active anywhere (one, if none is), and `[column]`, which
        these are."""
        active = self.values != 0
        known = self.latents[active].unique() if active.any() else torch.zeros(1, dtype=torch.int64)
        codes = torch.zeros(len(self.recon), len(known))
        example = torch.arange(len(self.recon))[:, None].expand_as(self.latents)[active]
        codes[example, torch.searchsorted(known, self.latents[active])] = self.values[active]
        return codes, known


@dataclass(frozen=True, eq=False)
class AttributeDictionary:
    """`a = mean + sum over attributes of u[attribute = value]`.

    Attributes:
        mean: `[d]`.
        rows: `[latent, d]`: the u of every value of the first attribute, then of the second, ...
        first: where each attribute's rows begin.
    """

    mean: Tensor
    rows: Tensor
    first: Mapping[str, int]

    def write(self, labels: Mapping[str, Tensor]) -> Written:
        """What it makes of examples with these values, `[example]` int64 each."""
        latents = torch.stack([labels[name] + start for name, start in self.first.items()], 1)
        return Written(self.mean + self.rows[latents].sum(1), latents, torch.ones(latents.shape))

    def edit(self, activations: Tensor, attribute: str, old: Tensor, new: Tensor) -> Tensor:
        """`[example, d]` with one attribute's value exchanged: `a - u_old + u_new`."""
        start = self.first[attribute]
        return activations - self.rows[start + old] + self.rows[start + new]


def design(labels: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """`[example, latent]`: one-hot of every attribute, side by side."""
    columns = [torch.nn.functional.one_hot(labels[name], size) for name, size in sizes.items()]
    return torch.cat(columns, 1).double()


def fit(activations: Tensor, labels: Mapping[str, Tensor], sizes: Mapping[str, int], how: Fit) -> AttributeDictionary:
    """Fit `[example, d]` activations.

    Args:
        labels: `[example]` int64 by attribute, below its size.
        how: `mean`: `u = E[a | value] - E[a]`, attribute by attribute; `mse`: all together by least squares, of
            least norm, `U = (C^T C)^+ C^T A`. Values that no example has get 0.
    """
    mean = activations.double().mean(0)
    one_hot, centred = design(labels, sizes), activations.double() - mean
    if how == "mean":
        rows = one_hot.T @ centred / one_hot.sum(0).clamp_min(1)[:, None]
    else:
        rows = torch.linalg.lstsq(one_hot, centred, driver="gelsd").solution
    starts = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
    first = dict(zip(sizes, starts, strict=False))
    return AttributeDictionary(mean.float(), rows.float(), first)
