"""What a comparison of two tools' codes and reconstructions came to, and all of them as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

OUT, IN, HUB = "saelab -> there", "there -> saelab", "hub -> there"
TOLERANCE = 1e-5
"""Of the largest value of its kind, or of 1 where that is smaller."""


@dataclass(frozen=True)
class Model:
    """An SAE, whoever's: `[tok, d_in]` -> codes `[tok, lat]`, dense, and reconstructions `[tok, d_out]`."""

    code: Callable[[Tensor], Tensor]
    recon: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trained:
    """An SAE that a tool has trained: what saves it into a directory, and what the tool itself makes of it."""

    save: Callable[[Path], Any]
    model: Model


Train = Callable[[], Trained]


@dataclass(frozen=True)
class Outcome:
    """One pair of a format and a variant, in one direction.

    Attributes:
        way: OUT, IN or HUB.
        code, recon: largest absolute differences; scale: the largest absolute values of both.
        same_support: whether the same latents are active everywhere.
        refused: why there is nothing to compare: the format has no form for this.
        failed: what went wrong.
    """

    way: str
    format: str
    variant: str
    code: float | None = None
    recon: float | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    same_support: bool | None = None
    refused: str | None = None
    failed: str | None = None

    @property
    def red(self) -> bool:
        if self.refused is not None:
            return False
        if self.failed is not None or self.code is None or self.recon is None or not self.same_support:
            return True
        worst = max(d / max(1.0, s) for d, s in zip((self.code, self.recon), self.scale, strict=True))
        return not worst <= TOLERANCE  # NaN is red, too

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "red": self.red}


@torch.no_grad()
def compared(way: str, format: str, variant: str, ours: Model, theirs: Model, x: Tensor) -> Outcome:
    """Both on the same activations."""
    codes, recons = (ours.code(x), theirs.code(x)), (ours.recon(x), theirs.recon(x))
    if not bool((codes[0] != 0).any()):
        return Outcome(way, format, variant, failed="no latent is active: nothing was compared")
    return Outcome(
        way,
        format,
        variant,
        code=_largest(codes[0] - codes[1]),
        recon=_largest(recons[0] - recons[1]),
        scale=(_largest(codes[1]), _largest(recons[1])),
        same_support=bool(((codes[0] != 0) == (codes[1] != 0)).all()),
    )


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """What went out: variants by formats, the largest difference in each; and a row for each that came in."""
    return [_matrix([one for one in outcomes if one.way == OUT]), _rows([one for one in outcomes if one.way != OUT])]


def _matrix(outcomes: Sequence[Outcome]) -> Table:
    shown = Table(title="saelab's variants, loaded there", **_STYLE)
    formats = list(dict.fromkeys(one.format for one in outcomes))
    found = {(one.variant, one.format): one for one in outcomes}
    for column in ("variant", *formats):
        shown.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for variant in dict.fromkeys(one.variant for one in outcomes):
        shown.add_row(variant, *(_cell(found[variant, format]) for format in formats))
    return shown


def _cell(one: Outcome) -> str:
    if one.refused:
        return "[dim]no form[/]"
    differences = [value for value in (one.code, one.recon) if value is not None]
    number = f"{max(differences):.1e}" if differences else "failed"
    return f"[red]RED {number}[/]" if one.red else f"[green]{number}[/]"


def _rows(outcomes: Sequence[Outcome]) -> Table:
    shown = Table(title="SAEs trained there, loaded here; and a pushed run, loaded from the hub", **_STYLE)
    for column in ("direction", "format", "variant", "codes differ by", "reconstructions by", "same latents"):
        shown.add_column(column, justify="right" if column.endswith("by") else "left", no_wrap=True)
    for one in outcomes:
        numbers = ["failed" if value is None else f"{value:.1e}" for value in (one.code, one.recon)]
        same = "-" if one.same_support is None else "yes" if one.same_support else "NO"
        shown.add_row(one.way, one.format, one.variant, *numbers, same, style="red" if one.red else None)
    return shown


_STYLE: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": "bold", "title_justify": "left"}
