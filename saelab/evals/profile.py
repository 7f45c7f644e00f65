"""Where the error is: by place in the context, how common the token is, the input's norm; and L0 token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab.activations.store import Store
from saelab.errors import check_least, check_seed
from saelab.evals.base import Chart, Result, Subject, Table
from saelab.evals.heldout import check_max_tokens, heldout
from saelab.evals.labelled import heldout_text
from saelab.lm.windows import SPLITS
from saelab.metrics import Groups, equal_groups

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Interval = tuple[float, float] | None

_PARTS = 10
_BARS = 32
_PERCENTILES = {"5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95}


@dataclass(frozen=True)
class Profile:
    """FVU by position in the context, by token frequency and by input norm, and the distribution of L0 over tokens.

    FVU of a group of tokens is their squared error over their squared deviation from the mean of all tokens evaluated,
    so that the groups add up to the FVU of `reconstruction` (see `saelab.metrics.Groups`). Positions are grouped by
    doubling: 1, 2-3, 4-7, ... Frequency is a token's share of all stored contexts, train and held-out; by it, and by
    the norm of what the SAE reads, tokens are ranked and cut into ten equal parts; ties stay in one part. Intervals are
    bootstrapped over documents.
    """

    max_tokens: Annotated[int | None, "held-out tokens used (none: all that are stored)"] = None
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_max_tokens(self.max_tokens)
        check_least(self, 1, "bootstrap_rounds")
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        position, document, frequency = _text(subject.store, self.max_tokens)
        norm, mean = _inputs(subject, self.max_tokens)
        error, deviation, l0 = _errors(subject, self.max_tokens, mean)
        metrics: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        tables, charts = [], []
        for way in (_by_frequency(frequency), _by_norm(norm), _by_position(position)):
            groups = Groups.of(way.group, document, error, deviation, l0, len(way.labels))
            rows = [_Row.of(way, groups, int(g), self) for g in np.flatnonzero(groups.tokens)]
            for name, row in zip(way.ends, (rows[0], rows[-1]), strict=True):
                metrics[name] = row.fvu
                intervals |= {name: row.interval} if row.interval else {}
            tables.append(_table(way, rows))
            charts.append(_chart(way, rows))
        low, median, high = np.percentile(l0, (5, 50, 95), method="inverted_cdf").tolist()
        return Result(
            metrics | {"l0_p5": low, "l0_median": median, "l0_p95": high},
            n_tokens=len(l0),
            intervals=intervals,
            meaning=_MEANING,
            tables=[*tables, _l0_table(l0)],
            charts=[*charts, _l0_chart(l0)],
        )


_MEANING = {
    "fvu_rarest_tokens": "FVU on the tenth of tokens that are rarest in the stored text (0 is perfect)",
    "fvu_commonest_tokens": "FVU on the tenth of tokens that are commonest in the stored text (0 is perfect)",
    "fvu_shortest_inputs": "FVU on the tenth of tokens whose inputs have the smallest norms (0 is perfect)",
    "fvu_longest_inputs": "FVU on the tenth of tokens whose inputs have the largest norms (0 is perfect)",
    "fvu_first_positions": "FVU on the first positions of a context that count (0 is perfect)",
    "fvu_last_positions": "FVU on the last positions of a context, from half its length or later (0 is perfect)",
    "l0_p5": "5 % of tokens have so many active latents or fewer",
    "l0_median": "half of the tokens have so many active latents or fewer",
    "l0_p95": "95 % of tokens have so many active latents or fewer",
}


# -- tokens -------------------------------------------------------------------------------------------


def _text(store: Store, max_tokens: int | None) -> tuple[Integers, Integers, Floats]:
    """`[tok]` each, in the order of `heldout`: position, document, and the token's share of the stored text."""
    names = ("context", "position", "document")
    shards = [[store.read(shard)[name].long() for name in names] for shard in store.of("heldout")]
    context, position, document = (torch.cat(column)[:max_tokens] for column in zip(*shards, strict=True))
    token = heldout_text(store).tokens[context, position].numpy()
    return position.numpy(), document.numpy(), _shares(store)[token]


def _shares(store: Store) -> Floats:
    """`[ids]`: each token id's share of all stored contexts; ids go as far as the largest."""
    counts = np.zeros(0, dtype=np.int64)
    for part in (part for split in SPLITS for part in store.contexts(split)):
        real = torch.arange(part.tokens.shape[1]) < part.length[:, None]
        seen = np.bincount(part.tokens[real].numpy(), minlength=len(counts))
        seen[: len(counts)] += counts
        counts = seen
    return counts / max(int(counts.sum()), 1)


def _inputs(subject: Subject, max_tokens: int | None) -> tuple[Floats, Tensor]:
    """`[tok]` norms of what the SAE reads, and the mean of what it reconstructs: `[d_out]` float64."""
    norms, totals = [], []
    for batch in heldout(subject, max_tokens):
        norms.append(batch.input.cpu().double().norm(dim=1))
        totals.append(batch.target.cpu().double().sum(0))
    norm = torch.cat(norms)
    return norm.numpy(), torch.stack(totals).sum(0) / len(norm)


def _errors(subject: Subject, max_tokens: int | None, mean: Tensor) -> tuple[Floats, Floats, Floats]:
    """`[tok]` each: squared error, squared deviation from the mean, active latents."""
    parts = []
    for batch in heldout(subject, max_tokens):
        code = subject.sae.encode(batch.input)
        x, recon = batch.target.cpu().double(), subject.sae.reconstruct(batch.input, code).cpu().double()
        parts.append(((x - recon).square().sum(1), (x - mean).square().sum(1), code.l0().cpu().double()))
    error, deviation, l0 = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return error, deviation, l0


# -- groups -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Way:
    """One way of grouping tokens.

    Attributes:
        group: `[tok]`.
        labels, ranges: of each group: what it is called, and what it spans.
        ends: metrics of the first group and of the last.
    """

    title: str
    axis: str
    caption: str
    group: Integers
    labels: Sequence[str]
    ranges: Sequence[str]
    ends: tuple[str, str]


def _by_position(position: Integers) -> _Way:
    group = np.frexp(position.astype(np.float64))[1].astype(np.int64)  # of 0: 0; of 1: 1; of 2 and 3: 2; ...
    starts = [0, *(1 << power for power in range(int(group.max())))]
    ends = [*(start - 1 for start in starts[1:]), int(position.max())]
    spans = [str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]
    return _Way(
        "Error by position",
        "position in the context",
        "Where in a context variance is lost. Positions are grouped by doubling.",
        group,
        spans,
        spans,
        ("fvu_first_positions", "fvu_last_positions"),
    )


def _by_frequency(share: Floats) -> _Way:
    per_million, group = 1e6 * share, equal_groups(share, _PARTS)
    return _Way(
        "Error by token frequency",
        "tokens, from the rarest tenth to the commonest",
        "Tokens ranked by how often they occur in the stored text and cut into ten equal parts; ranges are occurrences "
        "per million.",
        group,
        _named(group, "rarest", "commonest"),
        _ranges(per_million, group),
        ("fvu_rarest_tokens", "fvu_commonest_tokens"),
    )


def _by_norm(norm: Floats) -> _Way:
    group = equal_groups(norm, _PARTS)
    return _Way(
        "Error by input norm",
        "inputs, from the shortest tenth to the longest",
        "Tokens ranked by the norm of the activation that the SAE reads and cut into ten equal parts.",
        group,
        _named(group, "shortest", "longest"),
        _ranges(norm, group),
        ("fvu_shortest_inputs", "fvu_longest_inputs"),
    )


def _named(group: Integers, first: str, last: str) -> list[str]:
    """Parts by number; the ends by name."""
    names = {int(group.min()): first, int(group.max()): last}
    return [names.get(part, str(part + 1)) for part in range(_PARTS)]


def _ranges(values: Floats, group: Integers) -> list[str]:
    found = [values[group == part] for part in range(_PARTS)]
    return [f"{v.min():.4g}–{v.max():.4g}" if len(v) else "" for v in found]


# -- shown --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A group with tokens in it."""

    label: str
    range: str
    tokens: int
    fvu: float
    interval: Interval
    error_share: float
    l0: float

    @classmethod
    def of(cls, way: _Way, groups: Groups, g: int, spec: Profile) -> _Row:
        return cls(
            way.labels[g],
            way.ranges[g],
            int(groups.tokens[g]),
            float(groups.fvu[g]),
            groups.fvu_interval(g, seed=spec.seed, rounds=spec.bootstrap_rounds),
            float(groups.error_share[g]),
            float(groups.l0[g]),
        )


def _table(way: _Way, rows: Sequence[_Row]) -> Table:
    columns = ("group", "range", "tokens", "FVU", "low", "high", "share of all error", "mean L0")
    return Table(
        way.title,
        columns,
        [
            (
                row.label,
                row.range,
                row.tokens,
                _finite(row.fvu),
                *(row.interval or (None, None)),
                _finite(row.error_share),
                row.l0,
            )
            for row in rows
        ],
        caption=way.caption,
    )


def _chart(way: _Way, rows: Sequence[_Row]) -> Chart:
    points = [[row.label, row.fvu, *(row.interval or ())] for row in rows if math.isfinite(row.fvu)]
    return Chart(way.title, way.axis, "FVU", {"FVU": points}, caption=way.caption)


def _l0_table(l0: Floats) -> Table:
    marks = np.percentile(l0, list(_PERCENTILES.values()), method="inverted_cdf").tolist()
    return Table(
        "Active latents per token",
        ("mean", "standard deviation", "least", *_PERCENTILES, "most"),
        [(float(l0.mean()), float(l0.std()), float(l0.min()), *marks, float(l0.max()))],
        caption="L0, token by token; percentiles are of tokens.",
    )


def _l0_chart(l0: Floats) -> Chart:
    """Bars of one L0 each, or of a few; those stand at their middle."""
    low, high = int(l0.min()), int(l0.max())
    width = (high - low) // _BARS + 1
    shares = np.bincount(((l0 - low) // width).astype(np.int64)) / len(l0)
    return Chart(
        "L0 by token",
        "active latents",
        "share of tokens",
        {"tokens": [[low + width * i + (width - 1) / 2, share] for i, share in enumerate(shares.tolist())]},
        kind="bars",
        caption="How many latents are active on a token." + (f" Each bar spans {width}." if width > 1 else ""),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
