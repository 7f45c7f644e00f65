"""The table of an experiment: methods by what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """A method's means over seeds and their standard deviations.

    Attributes:
        auc: by truth.
    """

    label: str
    auc: dict[str, tuple[float, float]]
    average_precision: tuple[float, float]
    rank_correlation: tuple[float, float]
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
                {name: _spread([seed["rankings"][name]["auc"] for seed in seeds]) for name in document["truths"]},
                _spread([seed["rankings"][first]["average_precision"] for seed in seeds]),
                _spread([seed["rankings"][first]["rank_correlation"] for seed in seeds]),
                int(seeds[0]["cost"]["prompts"]),
                float(np.mean([seed["cost"]["seconds"] for seed in seeds])),
            )
        )
    return sorted(rows, key=lambda row: -row.auc[first][0] if row.auc[first][0] == row.auc[first][0] else 0.0)


def _spread(values: list[float | None]) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    return (float(np.mean(known)), float(np.std(known))) if known else (float("nan"), float("nan"))
