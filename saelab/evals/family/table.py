"""Variants side by side: means and spreads over seeds, each beside the reference at its own L0.

Two SAEs compare at equal L0. The reference is a curve through members of one kind at several L0; between its
points FVU and lost cross-entropy follow a power of L0 closely, so that both are interpolated in the logarithms.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saelab.errors import SettingError, did_you_mean
from saelab.evals.records import RunRecord

METRICS = (
    "fvu",
    "l0",
    "ce_score",
    "ce_score_mean",
    "delta_ce_nats",
    "dead_frac",
    "dense_frac",
    "tokens_per_second",
)
"""What is compared; FVU and L0 must be there for a run to count."""


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        values: one for each seed that has it, at least one.
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        return cls(tuple(values)) if values else None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The standard deviation of the population the seeds were drawn from; None below three of them."""
        return statistics.stdev(self.values) if len(self.values) >= 3 else None

    @property
    def low(self) -> float:
        """One standard deviation below the mean; of two seeds the lower."""
        return min(self.values) if self.std is None else self.mean - self.std

    @property
    def high(self) -> float:
        return max(self.values) if self.std is None else self.mean + self.std

    @property
    def around(self) -> float:
        """What stands behind ±; see `said_of_spread`."""
        return (self.high - self.low) / 2


def said_of_spread(seeds: int) -> str:
    """What ± is, over two seeds or more."""
    return "± is one standard deviation over seeds" if seeds > 2 else "± reaches both seeds"


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        members: by name, in the order of the table.
        seeds: of training.
        curve: members that are the reference, at two L0 or more.
        label: what the curve is called.
        beside: for members whose L0 the curve does not cover, the member to compare with: the reference at an L0 near
            theirs.
        title: what all have in common, over the plot.
    """

    members: tuple[str, ...]
    seeds: tuple[int, ...]
    curve: tuple[str, ...] = ()
    label: str = "reference"
    beside: Mapping[str, str] = field(default_factory=dict)
    title: str = ""

    def __post_init__(self) -> None:
        named = {"curve": self.curve, "beside": (*self.beside, *self.beside.values())}
        for key, names in named.items():
            for name in names:
                if name not in self.members:
                    raise SettingError(key, f"'{name}' is not a member", fix=did_you_mean(name, self.members))
        for name, companion in self.beside.items():
            if name == companion:
                raise SettingError(f"beside.{name}", "a member cannot be compared with itself")


@dataclass(frozen=True)
class Reference:
    """What a member is compared with, at its L0 or as near as there is one.

    Attributes:
        name: of the curve or the companion.
        l0, fvu, ce_score: of the reference, over the seeds on which both are there.
        fvu_ratio: the member's FVU over the reference's, seed by seed.
        added_loss_ratio: the same of 1 - CE score (zero ablation), which is that of the added losses.
    """

    name: str
    l0: Spread
    fvu: Spread
    ce_score: Spread | None
    fvu_ratio: Spread
    added_loss_ratio: Spread | None


@dataclass(frozen=True)
class Row:
    """One member over its seeds.

    Attributes:
        name, kind: as they are called.
        finished: seeds that are measured.
        unfinished: of the others, how far each is, such as "training 40 %"; "missing" where there is no run, and why
            a run that is there does not count.
        values: by metric; what no seed has is absent.
        reference: None for members of the curve, and where there is nothing to compare with.
    """

    name: str
    kind: str | None
    finished: tuple[int, ...]
    unfinished: Mapping[int, str]
    values: Mapping[str, Spread]
    reference: Reference | None = None


@dataclass(frozen=True)
class FamilyTable:
    """The comparison, measured."""

    comparison: Comparison
    rows: tuple[Row, ...]

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        runs: Mapping[tuple[str, int], RunRecord],
        refused: Mapping[tuple[str, int], str] | None = None,
    ) -> FamilyTable:
        """From what runs have found so far, by member and seed; some may be missing, some `refused` for a reason."""
        points = {
            (member, seed): point
            for member in comparison.members
            for seed in comparison.seeds
            if (member, seed) in runs and (point := _point(runs[member, seed])) is not None
        }
        standing = {key: run.standing for key, run in runs.items()} | dict(refused or {})
        return cls(comparison, tuple(_row(comparison, runs, standing, points, member) for member in comparison.members))

    @property
    def measured(self) -> bool:
        """Whether anything is."""
        return any(row.values for row in self.rows)

    @property
    def complete(self) -> bool:
        """Whether every member is measured on every seed."""
        return not any(row.unfinished for row in self.rows)

    @property
    def curve(self) -> tuple[Row, ...]:
        """The measured members of the reference curve, in the order of L0."""
        found = [row for row in self.rows if row.name in self.comparison.curve and "l0" in row.values]
        return tuple(sorted(found, key=lambda row: row.values["l0"].mean))


# -- one seed -----------------------------------------------------------------------------------------

Point = Mapping[str, float]
"""Metrics of one run."""


def _point(run: RunRecord) -> Point | None:
    """What a measured run found; None for one that is not measured."""
    found = dict(run.metrics)
    if run.tokens_per_second is not None:
        found["tokens_per_second"] = run.tokens_per_second
    return found if run.state == "evaluated" and found.keys() >= {"fvu", "l0"} else None


def at_l0(curve: Sequence[Point], metric: str, l0: float) -> float | None:
    """A metric of the curve at `l0`, straight in the logarithms of both; None outside of its points.

    A CE score is carried by what it lacks, 1 - score. Where a value is not positive (a perfect
    score), it is straight in the metric itself.
    """
    points = sorted((point["l0"], point[metric]) for point in curve if metric in point)
    for (left, here), (right, there) in itertools.pairwise(points):
        if left <= l0 <= right and left > 0:
            share = math.log(l0 / left) / math.log(right / left) if right > left else 0.0
            return _between(here, there, share, complement=metric.startswith("ce_score"))
    return None


def _between(here: float, there: float, share: float, *, complement: bool) -> float:
    a, b = (1 - here, 1 - there) if complement else (here, there)
    found = a ** (1 - share) * b**share if a > 0 and b > 0 else a + share * (b - a)
    return 1 - found if complement else found


# -- over seeds ---------------------------------------------------------------------------------------


def _row(
    comparison: Comparison,
    runs: Mapping[tuple[str, int], RunRecord],
    standing: Mapping[tuple[str, int], str],
    points: Mapping[tuple[str, int], Point],
    member: str,
) -> Row:
    own = {seed: points[member, seed] for seed in comparison.seeds if (member, seed) in points}
    spreads = {name: Spread.of([point[name] for point in own.values() if name in point]) for name in METRICS}
    return Row(
        name=member,
        kind=next((runs[member, seed].kind for seed in comparison.seeds if (member, seed) in runs), None),
        finished=tuple(own),
        unfinished={seed: standing.get((member, seed), "missing") for seed in comparison.seeds if seed not in own},
        values={name: spread for name, spread in spreads.items() if spread is not None},
        reference=None if member in comparison.curve else _reference(comparison, points, member, own),
    )


def _reference(
    comparison: Comparison, points: Mapping[tuple[str, int], Point], member: str, own: Mapping[int, Point]
) -> Reference | None:
    """The curve of the same seed at the member's L0; where it does not reach that far, the named companion."""
    pairs: list[tuple[Point, Point]] = []
    for seed, point in own.items():
        curve = [points[name, seed] for name in comparison.curve if (name, seed) in points]
        pairs += [(point, other) for other in _on_curve(curve, point["l0"])]
    companion = comparison.beside.get(member)
    if companion is None or (pairs and len(pairs) == len(own)):
        return _against(comparison.label, pairs)
    others = [(point, points[companion, seed]) for seed, point in own.items() if (companion, seed) in points]
    return _against(companion, others)


def _on_curve(curve: Sequence[Point], l0: float) -> list[Point]:
    """The point of the curve at `l0`, where it has one."""
    found = {"l0": l0, "fvu": at_l0(curve, "fvu", l0), "ce_score": at_l0(curve, "ce_score", l0)}
    point = {name: value for name, value in found.items() if value is not None}
    return [point] if "fvu" in point else []


def _against(name: str, pairs: Sequence[tuple[Point, Point]]) -> Reference | None:
    """Ratios are taken seed by seed: what a seed does to both drops out."""
    pairs = [(own, other) for own, other in pairs if other["fvu"] > 0]
    if not pairs:
        return None
    scores = [(own["ce_score"], other["ce_score"]) for own, other in pairs if "ce_score" in own.keys() & other]
    return Reference(
        name=name,
        l0=Spread(tuple(other["l0"] for _, other in pairs)),
        fvu=Spread(tuple(other["fvu"] for _, other in pairs)),
        ce_score=Spread.of([theirs for _, theirs in scores]),
        fvu_ratio=Spread(tuple(own["fvu"] / other["fvu"] for own, other in pairs)),
        added_loss_ratio=Spread.of([(1 - ours) / (1 - theirs) for ours, theirs in scores if theirs < 1]),
    )
