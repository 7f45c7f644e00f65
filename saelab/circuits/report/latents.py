"""A section on what the latents of an SAE do in the task."""

from __future__ import annotations

from collections.abc import Sequence

from saelab.circuits.findings import FeaturesFound
from saelab.circuits.report.table import Cell, rounded
from saelab.evals.base import Table
from saelab.evals.report.pieces import paragraph, table
from saelab.evals.report.words import DASH, count, said

_FED = 3


def latents(found: FeaturesFound | None) -> str:
    if found is None:
        return ""
    columns = ["latent", "estimated loss", "exact loss", "clean", "corrupted", "heads it gets that from"]
    cells: list[list[Cell]] = [
        [
            str(one.latent),
            rounded(one.score),
            None if one.exact is None else rounded(one.exact),
            rounded(one.clean),
            rounded(one.corrupted),
            "; ".join(f"{layer}.{head} {said(value, 2)}" for (layer, head), value in fed_by(found, one.fed)) or DASH,
        ]
        for one in found.latents
    ]
    return paragraph(told(found), "dim") + table(Table("Latents", columns, cells))


def told(found: FeaturesFound) -> str:
    """What was looked at, and what the numbers are."""
    return (
        f"Latents of the SAE in {found.run}, which reads {found.hook}, on {count(found.prompts, 'prompt')}. Estimated "
        "loss: (clean − corrupted) value · direction · gradient of the score; exact loss: of the score, where the "
        f"latent alone has its corrupted value. Of the {said(found.total, 3)} that the whole activation is estimated "
        f"to carry, the SAE's error has {said(found.error, 3)}, and positions that it does not read "
        f"{said(found.masked, 3)}. Clean and corrupted: the mean of a latent's largest value in a prompt."
    )


def feeds(found: FeaturesFound, head: tuple[int, int], n: int = _FED) -> list[tuple[int, float]]:
    """The latents that lose most where a head is patched, those that lose nothing left out; none of a head that was
    not looked at."""
    if head not in found.heads:
        return []
    at = found.heads.index(head)
    known = sorted(((one.latent, one.fed[at]) for one in found.latents), key=lambda pair: -abs(pair[1]))
    return [pair for pair in known[:n] if pair[1]]


def fed_by(found: FeaturesFound, fed: Sequence[float], n: int = _FED) -> list[tuple[tuple[int, int], float]]:
    """The heads whose patching takes most of what a latent does, those that take nothing left out."""
    known = sorted(zip(found.heads, fed, strict=True), key=lambda pair: -abs(pair[1]))
    return [pair for pair in known[:n] if pair[1]]
