"""Whether a code is as long as what it stands for: the check behind top-AFA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from saelab.errors import SettingError, check_least, check_seed
from saelab.evals.base import Chart, Result, Subject, Table
from saelab.evals.heldout import check_max_tokens, heldout
from saelab.kernels import spread
from saelab.sae import SAE, SparseCode

_LINE_POINTS = 24
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Norms:
    """Lengths of weighted codes `f = (z_i ||d_i||)` against lengths of what they reconstruct, `x` minus the decoder's
    bias (top-AFA, 2503.24277). If `x` were a sum of features of norm 1 with cosines of at most epsilon,

        ||x||^2 / (1 + epsilon (h - 1)) <= ||f||^2 <= ||x||^2 / (1 - epsilon (h - 1))
        epsilon_LBO = | ||x||^2 - ||f||^2 | / ((h - 1) ||f||^2),    the smallest epsilon that allows these lengths

    with h the number of latents. At an SAE's width the bound says next to nothing, so it is given for h = L0, the
    token's active latents, too. A code that is too long has latents that cancel each other; one that is too short has
    latents that repeat each other, or leaves something out: the reconstruction's own length tells these apart.

    Deviation: the paper's notebook counts the bias as one more latent of a raw `x`; here it is taken off, as in
    top-AFA's own selection. A transcoder's `x` is its target, a skip connection is taken off as well.
    """

    max_tokens: Annotated[int | None, "held-out tokens used (none: all that are stored)"] = None
    points: Annotated[int, "tokens drawn in the ZF plot"] = 400
    bands: Annotated[tuple[float, ...], "values of epsilon (h - 1) whose bands are drawn and counted"] = (
        0.25,
        0.5,
        1.0,
    )
    seed: Annotated[int, "of the tokens drawn"] = 0

    def __post_init__(self) -> None:
        check_max_tokens(self.max_tokens)
        check_least(self, 1, "points")
        check_seed(self.seed)
        for value in self.bands:
            if not 0 < value <= 1:
                raise SettingError("bands", f"above 0 and at most 1, found {value}")

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        parts = [
            lengths(subject.sae, x.input, x.target, subject.sae.encode(x.input))
            for x in heldout(subject, self.max_tokens)
        ]
        return self._result(torch.cat(parts), subject.sae.n_latents)

    def _result(self, found: Tensor, n_latents: int) -> Result:
        x, f, recon, l0 = found.unbind(1)
        ratio, gap = f / x, (x.square() - f.square()).abs() / f.square()
        wide, narrow = gap[f > 0] / max(n_latents - 1, 1), (gap / (l0 - 1))[(f > 0) & (l0 > 1)]
        metrics = {
            "norms_ratio": float(ratio.mean()),
            "norms_over_frac": float((ratio > 1).double().mean()),
            "norms_recon_ratio": float((recon / f)[f > 0].mean()),
            "norms_epsilon_width": _median(wide),
            "norms_epsilon_l0": _median(narrow),
            **{f"norms_band_{band:g}_frac": float((gap <= band).double().mean()) for band in self.bands},
        }
        return Result(
            metrics,
            n_tokens=len(found),
            meaning={name: _meaning(name) for name in metrics},
            tables=[_quantiles({"||f|| / ||x||": ratio, "epsilon, h = F": wide, "epsilon, h = L0": narrow})],
            charts=[self._plot(x, f)],
            details={"silent_tokens": int((f == 0).sum()), "tokens_with_one_latent": int((l0 == 1).sum())},
        )

    def _plot(self, x: Tensor, f: Tensor) -> Chart:
        """The ZF plot: a band's edges where `||x||^2 = ||f||^2 (1 +- band)`."""
        drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))[: self.points]
        series: dict[str, list[list[float | str]]] = {"tokens": torch.stack([x, f], 1)[drawn].tolist()}
        line = torch.linspace(float(x[drawn].min()), float(x[drawn].max()), _LINE_POINTS).tolist()
        for name, factor in self._edges().items():
            series[name] = [[at, at * factor] for at in line]
        return Chart(
            "ZF plot",
            "length of the activation (centred)",
            "length of the code",
            series,
            kind="scatter",
            caption="Above the line of equal lengths codes are too long (latents cancel), below it too short.",
        )

    def _edges(self) -> dict[str, float]:
        """By name: ||f|| / ||x||."""
        edges = {"equal": 1.0}
        for band in self.bands:
            edges[f"{band:g} below"] = 1 / math.sqrt(1 + band)
            if band < 1:
                edges[f"{band:g} above"] = 1 / math.sqrt(1 - band)
        return edges


def lengths(sae: SAE, x: Tensor, target: Tensor, code: SparseCode) -> Tensor:
    """`[tok, 4]` float64: the norms of what the code stands for, of the weighted code, and of what it says; L0."""
    nnz = code.support.nnz
    weighted = (code.values * spread(sae.W_dec.norm(dim=1), code.support))[:nnz].cpu().double()
    squares = torch.zeros(code.n_tokens, dtype=torch.float64)
    squares.index_add_(0, code.support.rows.cpu(), weighted.square())
    plain = sae.decoder.affine(x)
    columns = [(target - plain).norm(dim=1), squares.sqrt(), (sae.reconstruct(x, code) - plain).norm(dim=1), code.l0()]
    return torch.stack([column.cpu().double() for column in columns], 1)


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else float("nan")


def _quantiles(columns: dict[str, Tensor]) -> Table:
    def at(values: Tensor, share: float) -> float | None:
        return float(values.sort().values[round(share * (len(values) - 1))]) if len(values) else None

    rows = [[name, *(at(values, share) for share in _SHARES)] for name, values in columns.items()]
    return Table("Lengths of codes", ["quantity", *map("{:.0%}".format, _SHARES)], rows, "Quantiles over tokens.")


def _meaning(name: str) -> str:
    if name.startswith("norms_band_"):
        band = name.removeprefix("norms_band_").removesuffix("_frac")
        return f"Share of tokens whose two squared lengths differ by at most {band} of the code's; higher is better."
    return {
        "norms_ratio": "Mean length of the code over that of the activation, both without the bias; 1 is what "
        "quasi-orthogonal features would give.",
        "norms_over_frac": "Share of tokens whose code is longer than the activation.",
        "norms_recon_ratio": "Mean length of what a code says over its own; below 1 active latents cancel, above 1 "
        "they repeat each other, 1 is orthogonal.",
        "norms_epsilon_width": "Median over tokens of epsilon_LBO with h the dictionary's width; lower is better, but "
        "hardly a bound at this h.",
        "norms_epsilon_l0": "Median over tokens of epsilon_LBO with h the token's active latents; lower is better, 0 "
        "is orthogonal.",
    }[name]
