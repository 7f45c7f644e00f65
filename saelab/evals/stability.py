"""How much of a dictionary another training run finds again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saelab import metrics
from saelab.errors import SaelabError, SettingError, check_least, check_seed
from saelab.evals.base import Chart, NotMeasurable, Result, Subject, Table
from saelab.evals.cosines import Pairs, pair, unit
from saelab.evals.heldout import check_max_tokens, heldout
from saelab.sae import SAE
from saelab.testing.planted import stream
from saelab.testing.recovery import random_dictionary
from saelab.training.start import load_start

_GROUPS = 10


@dataclass(frozen=True)
class Stability:
    """Decoder rows matched one to one with those of other runs, so that their cosines add up to the most (Hungarian
    algorithm; PW-MCC, 2505.20254).

    A latent counts as found again from a cosine of 0.7 or 0.9 on. Where either SAE has negative codes, a row and its
    negation mean the same, and |cosines| count. Means are over pairs and over the runs in `against`; the table and
    the chart have them by how often the latent fires. There are two nulls, since real dictionaries do not fill space
    evenly: random directions, and directions drawn with each dictionary's own second moments.
    """

    against: Annotated[tuple[str, ...], "other runs' directories, or what SAE.load reads; such as other seeds"] = ()
    above: Annotated[tuple[float, ...], "cosines from which a latent counts as found again"] = (0.7, 0.9)
    candidates: Annotated[int, "nearest rows on either side that can become partners; more are slower"] = 64
    max_tokens: Annotated[int | None, "held-out tokens behind densities (none: all that are stored)"] = 16_384
    seed: Annotated[int, "of the nulls"] = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "candidates")
        check_max_tokens(self.max_tokens)
        check_seed(self.seed)
        for value in self.above:
            if not 0 < value < 1:
                raise SettingError("above", f"cosines between 0 and 1, found {value}")

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        if not self.against:
            raise NotMeasurable("no other run is named (eval.stability.against: [runs/...])")
        others = {path: _load(path, subject.sae) for path in self.against}
        own = subject.sae.sha256()
        others = {path: other for path, other in others.items() if other.sha256() != own}
        if not others:
            raise NotMeasurable("eval.stability.against names nothing but this SAE itself")
        density, signed = self._density(subject.share(0, 0.2), list(others.values()))
        step, found = 0.8 / len(others), {}
        for at, (path, other) in enumerate(others.items()):
            here = subject.share(0.2 + at * step, 0.2 + (at + 1) * step)
            make = partial(self._compare, here, other, density.per_latent(), signed=signed)
            found[path] = subject.part(path, make)
        return self._result(found, signed, density.n_tokens)

    def _density(self, subject: Subject, others: Sequence[SAE]) -> tuple[metrics.Density, bool]:
        """Of the subject's latents; and whether any of the SAEs has negative codes."""
        seen, signed = metrics.Density(subject.sae.n_latents), False
        for number, batch in enumerate(heldout(subject, self.max_tokens)):
            code = subject.sae.encode(batch.input)
            seen.update(code.firing_counts(), batch.input.shape[0])
            codes = [code, *(other.to(batch.input.device).encode(batch.input) for other in others if number == 0)]
            signed = signed or any(bool((code.values < 0).any()) for code in codes)
        return seen, signed

    def _compare(self, subject: Subject, other: SAE, density: Tensor, *, signed: bool) -> dict[str, Any]:
        """What another SAE has in common with the subject, JSON-able; `density` `[lat]` of the subject's latents."""
        left = unit(subject.sae.W_dec)
        right, generator = unit(other.W_dec).to(left), stream(self.seed, "stability")
        compared = (
            (left, right),
            tuple(random_dictionary(len(rows), rows.shape[1], generator).to(rows) for rows in (left, right)),
            tuple(drawn_like(rows, generator) for rows in (left, right)),
        )
        found, random, shaped = (
            pair(a, b, signed=signed, candidates=self.candidates, report=subject.share(at / 3, (at + 1) / 3).report)
            for at, (a, b) in enumerate(compared)
        )
        return {
            "kind": other.identity.kind,
            "hook": other.identity.provenance.get("hook"),
            "sha256": other.sha256(),
            "latents": other.n_latents,
            "pairs": len(found.cosine),
            **self._numbers(found),
            "random": self._numbers(random),
            "shaped": self._numbers(shaped),
            "groups": [self._group(name, found, members, density) for name, members in by_density(density)],
        }

    def _numbers(self, found: Pairs) -> dict[str, float]:
        return {
            "mean": float(found.cosine.mean()),
            "nearest": float(found.nearest.mean()),
            **{f"above_{value:g}": float((found.cosine > value).double().mean()) for value in self.above},
        }

    def _group(self, name: str, found: Pairs, members: Tensor, density: Tensor) -> dict[str, Any]:
        cosine = found.cosine[torch.isin(found.left, members)]
        shares = {f"above_{value:g}": float((cosine > value).double().mean()) for value in self.above}
        numbers = {"mean": float(cosine.mean()), **shares} if len(cosine) else {}
        at = density[members]
        ends = {"from": float(at.min()), "to": float(at.max()), "median": float(at.median())}
        return {"group": name, "latents": len(members), **ends, **numbers}

    def _result(self, found: dict[str, Any], signed: bool, n_tokens: int) -> Result:
        names = ["mean", "nearest", *(f"above_{value:g}" for value in self.above)]
        nulls = {"": lambda part: part, "random_": lambda part: part["random"], "shaped_": lambda part: part["shaped"]}
        values = {
            f"stability_{null}{_label(name)}": sum(get(part)[name] for part in found.values()) / len(found)
            for null, get in nulls.items()
            for name in names
        }
        left_out = {f"stability against {path}": "it is this SAE itself" for path in self.against if path not in found}
        return Result(
            values,
            n_tokens=n_tokens,
            meaning={name: self._meaning(name.removeprefix("stability_")) for name in values},
            tables=[self._runs(found), self._deciles(found)],
            charts=[self._chart(found)],
            details={"signed": signed, "sha256": {path: part["sha256"] for path, part in found.items()}},
            not_measurable=left_out,
        )

    def _meaning(self, name: str) -> str:
        for null, said in (("random_", "random directions"), ("shaped_", "directions as uneven as the decoders'")):
            if name.startswith(null):
                return f"The same between {said}: what chance gives."
        if name.startswith("above_"):
            value = name.removeprefix("above_").removesuffix("_frac")
            return f"Share of one-to-one pairs at a cosine above {value}; higher is better, 1 is the same dictionary."
        return {
            "mean_cosine": "Mean cosine of decoder rows matched one to one with another run's; higher is better, 1 is "
            "the same dictionary.",
            "nearest_cosine": "Mean cosine of a latent with the nearest of the other run, which several may share; "
            "higher is better.",
        }[name]

    def _runs(self, found: dict[str, Any]) -> Table:
        names = ["mean", *(f"above_{value:g}" for value in self.above), "nearest"]
        about, nulls = ["kind", "hook", "latents", "pairs"], ["random", "shaped"]
        rows = [
            [path, *(part[name] for name in [*about, *names]), *(part[null]["mean"] for null in nulls)]
            for path, part in found.items()
        ]
        columns = ["against", *about, *names, *nulls]
        return Table("Stability: other runs", columns, rows, "random, shaped: the mean of the two nulls.")

    def _deciles(self, found: dict[str, Any]) -> Table:
        names = ["from", "to", "mean", *(f"above_{value:g}" for value in self.above)]
        rows = [
            [path, group["group"], group["latents"], *(group.get(name) for name in names)]
            for path, part in found.items()
            for group in part["groups"]
        ]
        caption = "By the share of held-out tokens on which this SAE's latent is active; 1 is the rarest tenth."
        return Table("Stability by density", ["against", "decile", "latents", *names], rows, caption)

    def _chart(self, found: dict[str, Any]) -> Chart:
        series: dict[str, list[list[float | str]]] = {
            path: [[group["median"], group["mean"]] for group in part["groups"] if group["median"] and "mean" in group]
            for path, part in found.items()
        }
        first, known = next(iter(found.values())), [point[0] for points in series.values() for point in points]
        for label, null in (("random directions", "random"), ("directions as uneven as these", "shaped")):
            series[label] = [[x, first[null]["mean"]] for x in (min(known), max(known))] if known else []
        return Chart(
            "Stability by density",
            "density (median of a tenth of the latents)",
            "mean cosine with the partner",
            series,
            log_x=True,
            caption="Whether another run finds the same latents, for rare and for common ones.",
        )


def by_density(density: Tensor) -> list[tuple[str, Tensor]]:
    """Latents in groups, of those `[lat]` shares of tokens: tenths of those that fire, the rarest first, and the
    others."""
    order, dead = density.argsort(stable=True), int((density == 0).sum())
    tenths = enumerate(order[dead:].tensor_split(_GROUPS), start=1)
    groups = [("never active", order[:dead]), *((str(number), members) for number, members in tenths)]
    return [(name, members) for name, members in groups if len(members)]


def drawn_like(rows: Tensor, generator: torch.Generator) -> Tensor:
    """As many unit rows, drawn from the normal distribution with the second moments of these `[n, d]`."""
    moments = (rows.T @ rows).double().cpu() / len(rows)
    values, vectors = torch.linalg.eigh(moments)
    root = vectors * values.clamp(min=0).sqrt()
    drawn = torch.randn(len(rows), rows.shape[1], generator=generator) @ root.float().T
    return normalize(drawn, dim=1).to(rows)


def _label(name: str) -> str:
    return f"{name}_cosine" if name in ("mean", "nearest") else f"{name}_frac"


def _load(path: str, subject: SAE) -> SAE:
    """Another run's SAE.

    Raises:
        SaelabError: there is none, or it writes to another space.
    """
    other = load_start(path)
    if other.identity.d_out != subject.identity.d_out:
        raise SaelabError(
            f"this SAE writes activations of width {other.identity.d_out}, the measured one of "
            f"{subject.identity.d_out}: their latents cannot be compared",
            where=f"eval.stability.against: {path}",
            fix="name runs on the same hook",
        )
    return other
