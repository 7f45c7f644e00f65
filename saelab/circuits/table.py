"""The table of an experiment: methods by what they are worth."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saelab.evals.family import Spread


@dataclass(frozen=True)
class Row:
    """A method over its seeds; None where no seed has the number.

    Attributes:
        auc: by truth.
        seconds: the mean.
    """

    label: str
    auc: Mapping[str, Spread | None]
    average_precision: Spread | None
    rank_correlation: Spread | None
    prompts: int
    seconds: float


def table(document: Mapping[str, Any]) -> list[Row]:
    """Of what `run` returned, the method of the best AUC at the chosen cut-off first."""
    first = next(iter(document["truths"]))
    rows: list[Row] = []
    for label, made in document["methods"].items():
        seeds = made["seeds"]
        rows.append(
            Row(
                label,
                {name: _spread(seeds, name, "auc") for name in document["truths"]},
                _spread(seeds, first, "average_precision"),
                _spread(seeds, first, "rank_correlation"),
                int(seeds[0]["cost"]["prompts"]),
                statistics.fmean(seed["cost"]["seconds"] for seed in seeds),
            )
        )
    return sorted(rows, key=lambda row: -found.mean if (found := row.auc[first]) else 0.0)


def _spread(seeds: list[Mapping[str, Any]], truth: str, key: str) -> Spread | None:
    values = [seed["rankings"][truth][key] for seed in seeds]
    return Spread.of([value for value in values if value is not None])
