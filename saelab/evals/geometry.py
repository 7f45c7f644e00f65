"""How a dictionary's directions lie to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from saelab.errors import SettingError, check_least, check_seed
from saelab.evals.base import Chart, NotMeasurable, Result, Subject, Table
from saelab.evals.cosines import Among, among, unit
from saelab.evals.heldout import heldout
from saelab.sae import SAE, SparseCode
from saelab.testing.planted import stream
from saelab.testing.recovery import random_dictionary

_BINS = 40


@dataclass(frozen=True)
class Geometry:
    """Cosines of decoder rows with each other, and with the encoder's, beside a random dictionary of the same shape.

        mu(T) = max_i max_{|S| = T, i not in S} sum_{j in S} |cos(d_i, d_j)|       (Babel function; Tropp 2004)

    A row with a near copy (cosine above `near`) is a duplicate. One with a near opposite is the other pole of the
    same direction; where codes are signed it is a duplicate, too. Among the latents that are active together on a
    token the same is measured, since coherence costs nothing between latents that never meet (matching-pursuit SAEs,
    2506.03093). Rows of norm 0 are left out.
    """

    babel: Annotated[tuple[int, ...], "sizes T of the sets that Babel functions sum over"] = (1, 2, 4, 8, 16, 32, 64)
    near: Annotated[float, "cosine from which two rows are duplicates"] = 0.9
    tokens: Annotated[int, "held-out tokens whose active latents are compared"] = 1000
    seed: Annotated[int, "of the random dictionary"] = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "babel", "tokens")
        check_seed(self.seed)
        if not 0 < self.near < 1:
            raise SettingError("near", f"a cosine between 0 and 1, found {self.near}")

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        sae = subject.sae
        rows = unit(sae.W_dec)[sae.W_dec.norm(dim=1) > 0]
        if len(rows) < 2:
            raise NotMeasurable(f"there are {len(rows)} decoder rows to compare")
        depth = min(max(self.babel), len(rows) - 1)
        found = among(rows, depth, subject.share(0, 0.4).report)
        draw = random_dictionary(len(rows), rows.shape[1], stream(self.seed, "geometry")).to(rows)
        null = among(draw, depth, subject.share(0.4, 0.8).report)
        together = self._together(subject.share(0.8, 1))
        sizes = [size for size in self.babel if size <= depth]
        metrics = self._numbers(found, sizes) | {f"random_{k}": v for k, v in self._numbers(null, sizes).items()}
        aligned = encoder_cosines(sae)
        if isinstance(aligned, Tensor):
            metrics["encoder_decoder_cosine"] = float(aligned.mean())
        if len(together):
            metrics["active_mean_cosine"], metrics["active_babel"] = together.mean(0).tolist()
        metrics = {f"geometry_{name}": value for name, value in metrics.items()}
        return Result(
            metrics,
            n_tokens=len(together),
            meaning={name: self._meaning(name.removeprefix("geometry_")) for name in metrics},
            tables=[_table(metrics)],
            charts=[_babel(found, null, sizes), _nearest(found, null)],
            details={"rows": len(rows), "rows_of_norm_0": sae.n_latents - len(rows)},
            not_measurable=self._missing(aligned, len(rows), len(together)),
        )

    def _numbers(self, found: Among, sizes: list[int]) -> dict[str, float]:
        return {
            "max_cosine": float(found.largest[:, 0].max()),
            "mean_cosine": found.mean,
            "nearest_cosine": float(found.largest[:, 0].double().mean()),
            "duplicates_frac": float((found.highest > self.near).double().mean()),
            "opposites_frac": float((found.lowest < -self.near).double().mean()),
            **{f"babel_{size}": float(found.babel(size).max()) for size in sizes},
        }

    def _together(self, subject: Subject) -> Tensor:
        """`[token, 2]`, of tokens with two or more active latents: see `coherence`."""
        rows = unit(subject.sae.W_dec)
        return torch.cat([coherence(rows, subject.sae.encode(x.input)) for x in heldout(subject, self.tokens)])

    def _missing(self, aligned: Tensor | str, rows: int, tokens: int) -> dict[str, str]:
        reasons = {
            f"geometry_babel_{size}": f"there are {rows - 1} other rows" for size in self.babel if size > rows - 1
        }
        if isinstance(aligned, str):
            reasons["geometry_encoder_decoder_cosine"] = aligned
        if not tokens:
            reasons["geometry_active_mean_cosine"] = "no token has two active latents"
        return reasons

    def _meaning(self, name: str) -> str:
        if name.startswith("random_"):
            return f"The same of random directions: {self._meaning(name.removeprefix('random_'))}"
        if name.startswith("babel_"):
            size = name.removeprefix("babel_")
            return f"Babel: the largest sum of a row's |cosines| with {size} others; lower is better, 0 is orthogonal."
        return {
            "max_cosine": "The largest |cosine| of two decoder rows; lower is better.",
            "mean_cosine": "Mean |cosine| of two decoder rows; lower is better.",
            "nearest_cosine": "Mean over latents of the |cosine| with the nearest other row; lower is better.",
            "duplicates_frac": f"Share of latents with another row at a cosine above {self.near}; lower is better.",
            "opposites_frac": f"Share of latents with another row at a cosine below -{self.near}: the other pole of "
            "the same direction.",
            "encoder_decoder_cosine": "Mean cosine of a latent's encoder and decoder rows; 1 is a tied encoder.",
            "active_mean_cosine": "Mean |cosine| of two latents active on the same token; beside the mean of any two, "
            "it says whether like latents fire together.",
            "active_babel": "Mean over tokens of the largest sum of an active latent's |cosines| with the others.",
        }[name]


def encoder_cosines(sae: SAE) -> Tensor | str:
    """`[lat]`: of each latent's encoder and decoder rows, or why there are none."""
    own = dict(sae.coder.named_parameters(recurse=False)).get("W_enc")
    if sae.identity.transcoder:
        return "a transcoder's encoder and decoder lie in different spaces"
    if own is None:
        return "it encodes with the decoder's own rows"
    return (unit(own) * unit(sae.W_dec)).sum(1).double()


def coherence(rows: Tensor, code: SparseCode) -> Tensor:
    """`[token, 2]` of tokens with two or more active latents: the mean |cosine| of two of them, and the largest sum
    of one's |cosines| with the others.

    Args:
        rows: `[lat, d]`, unit.
    """
    latents = code.latents[: code.support.nnz][code.active].long()
    found = []
    for active in latents.split(code.l0().tolist()):
        n = len(active)
        if n > 1:
            sums = (rows[active] @ rows[active].T).abs_().fill_diagonal_(0).double().sum(1)
            found.append([float(sums.sum()) / (n * (n - 1)), float(sums.max())])
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 2)


def _table(metrics: Mapping[str, float]) -> Table:
    names = [name.removeprefix("geometry_") for name in metrics if "random" not in name]
    rows = [[name, metrics[f"geometry_{name}"], metrics.get(f"geometry_random_{name}")] for name in names]
    return Table("Decoder rows", ["quantity", "decoder", "random"], rows, "random: as many random directions.")


def _babel(found: Among, null: Among, sizes: list[int]) -> Chart:
    series = {
        "largest": [[size, float(found.babel(size).max())] for size in sizes],
        "mean over latents": [[size, float(found.babel(size).mean())] for size in sizes],
        "largest, random directions": [[size, float(null.babel(size).max())] for size in sizes],
    }
    caption = "Sum of a row's |cosines| with the T others nearest to it."
    return Chart("Babel function", "T", "mu(T)", series, log_x=True, caption=caption)


def _nearest(found: Among, null: Among) -> Chart:
    """How near the nearest other row is."""
    edges = torch.linspace(0, 1, _BINS + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()

    def shares(of: Among) -> list[list[float | str]]:
        counts = torch.histogram(of.largest[:, 0].clamp(0, 1), edges).hist
        return [[x, y] for x, y in zip(middles, (counts / counts.sum()).tolist(), strict=True)]

    series = {"decoder": shares(found), "random directions": shares(null)}
    caption = "How near each latent's nearest other row is."
    return Chart("Nearest decoder row", "|cosine| with the nearest", "share of latents", series, caption=caption)
