"""Caching, memory, loading, shuffling, and several SAEs on one stream, each beside its measure in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from saelab.activations import CaptureSpec, Store, capture
from saelab.activations.loader import Batch
from saelab.activations.source import FromStore, Text
from saelab.bench import correlation, growth
from saelab.bench.bare import BareForward, Beside
from saelab.bench.lockstep import Learning, temporary_directory
from saelab.bench.progress import Progress, Report
from saelab.bench.timing import Copy
from saelab.errors import SaelabError, check_least, did_you_mean
from saelab.lm.corpus import DataSpec
from saelab.lm.mask import MaskSpec
from saelab.lm.model import LanguageModel, ModelSpec
from saelab.lm.windows import WindowSpec
from saelab.training import TrainSpec

MEMBERS = 4
"""SAEs in lock-step."""
_HELDOUT_SHARE = 10
"""One held-out token is cached for so many training tokens."""
_MB = 1e6
_LOADED_BYTES = 2**31
"""The loader's speed is taken from an epoch, or this much of it."""


@dataclass(frozen=True)
class Work:
    """What a config asks for, as far as it matters here.

    Attributes:
        hook: what the SAE reads; target_hook: what it reconstructs (None: the same).
        kind: a variant's name; settings: its own.
    """

    model: ModelSpec
    data: DataSpec
    windows: WindowSpec
    mask: MaskSpec
    capture: CaptureSpec
    hook: str
    target_hook: str | None
    kind: str
    settings: dict[str, Any]
    train: TrainSpec


@dataclass(frozen=True)
class Extent:
    """How much of it is measured.

    Attributes:
        rounds: in which everything that is compared takes its turn.
        cache_tokens: cached in each; memory_tokens: cached while memory is watched.
        steps: of training.
    """

    rounds: int = 3
    cache_tokens: int = 100_000
    memory_tokens: int = 300_000
    steps: int = 48

    def __post_init__(self) -> None:
        check_least(self, 1, *vars(self))


@dataclass(frozen=True)
class Bar:
    """What a figure should not go beyond."""

    limit: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.least else value <= self.limit


_CACHING, _MEMORY, _SHUFFLING, _LOCKSTEP = Bar(1.1), Bar(300), Bar(3), Bar(1.15)
_LOADER, _STEP_SHARE = Bar(1, least=True), Bar(0.05)


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        part: which measurement; what: what was found in it.
        values: one a round, or one; none where it could not be measured: why_not.
        beside: what it was made from, by name; medians.
    """

    part: str
    what: str
    values: tuple[float, ...]
    unit: str
    bar: Bar | None = None
    beside: Mapping[str, float] = field(default_factory=dict)
    why_not: str | None = None

    @property
    def value(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def met(self) -> bool | None:
        return None if self.bar is None or self.value is None else self.bar.met(self.value)

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "part": self.part,
            "what": self.what,
            "value": self.value,
            "min": min(self.values, default=None),
            "max": max(self.values, default=None),
            "unit": self.unit,
            "bar": None if self.bar is None else self.bar.limit,
            "met": self.met,
            "beside": dict(self.beside),
            "why_not": self.why_not,
        }


@dataclass(frozen=True, eq=False)
class _Bench:
    """Everything a part may need."""

    work: Work
    lm: LanguageModel
    store: Store
    extent: Extent
    progress: Progress

    @property
    def learning(self) -> Learning:
        work = self.work
        return Learning(
            work.kind,
            work.settings,
            work.train,
            work.hook,
            work.target_hook,
            self.store,
            Text(lambda: self.lm, work.data, work.windows),
            work.capture,
        )

    def in_turn(self, cases: Mapping[str, Callable[[], float]]) -> dict[str, tuple[float, ...]]:
        """What each case says its seconds are, once a round."""
        taken: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(self.extent.rounds):
            self.progress.begin(f"{', '.join(cases)}: round {number + 1}")
            for name, case in cases.items():
                taken[name].append(case())
        return {name: tuple(seconds) for name, seconds in taken.items()}


def run(
    work: Work,
    lm: LanguageModel,
    store: Store,
    extent: Extent,
    parts: Sequence[str] = (),
    *,
    report: Report = lambda done, total, note: None,
) -> list[Row]:
    """The rows of some parts (all of `PARTS` if none is named).

    Args:
        lm, store: made of `work`.

    Raises:
        SaelabError: an unknown part, a store too small to be measured.
    """
    for part in parts:
        if part not in PARTS:
            raise SaelabError(f"unknown part '{part}'", fix=did_you_mean(part, PARTS) or f"known: {', '.join(PARTS)}")
    chosen = list(dict.fromkeys(parts)) or list(PARTS)
    pieces = sum(extent.rounds if PARTS[part].in_rounds else 1 for part in chosen)
    bench = _Bench(work, lm, store, extent, Progress(report, pieces))
    rows = [row for part in chosen for row in PARTS[part].measure(bench)]
    report(pieces, pieces, "")
    return rows


def _caching(bench: _Bench) -> list[Row]:
    """The whole of `capture` against the bare model on the same contexts."""
    work, lm, tokens = bench.work, bench.lm, bench.extent.cache_tokens
    layers = [lm.hook(name).layer for name in work.capture.hooks]
    last = None if None in layers else max(layer for layer in layers if layer is not None)
    spec = replace(
        work.capture, tokens=tokens, heldout_tokens=max(1, tokens // _HELDOUT_SHARE), loss_grad=False, dir=None
    )
    bare = BareForward(work.model, lm, last)

    def measure(into: Path) -> tuple[int, float, float]:
        both = Beside(lm, bare)
        stand_in, place = cast(LanguageModel, both), replace(spec, dir=str(into))
        seconds = _seconds(lambda: capture(stand_in, work.data, work.windows, work.mask, place))
        return both.tokens, seconds - both.seconds, both.seconds

    bare(torch.zeros(spec.batch_contexts, work.windows.context_length, dtype=torch.long))  # the first pass is slower
    taken: list[tuple[int, float, float]] = []
    with temporary_directory() as place:
        for number in range(bench.extent.rounds):
            bench.progress.begin(f"caching, bare forward: round {number + 1}")
            taken.append(measure(place / str(number)))
    n_tokens, caching, forward = zip(*taken, strict=True)
    rates = {
        "caching_tokens_per_second": n_tokens[0] / statistics.median(caching),
        "bare_forward_tokens_per_second": n_tokens[0] / statistics.median(forward),
    }
    what = "time of caching over a bare forward with early stop"
    return [Row("caching", what, _ratios(caching, forward), "", _CACHING, rates)]


def _memory(bench: _Bench) -> list[Row]:
    """In a process of its own."""
    work, tokens = bench.work, bench.extent.memory_tokens
    bench.progress.begin(f"memory: caching {tokens:,} tokens")
    found = growth.measure(growth.Caching(work.model, work.windows, work.mask, work.capture, tokens))
    what = f"memory gained while caching {tokens:,} tokens of generated text at {growth.EARLY_HOOK}"
    if found.bytes is None or found.first_bytes is None or found.last_bytes is None:
        return [Row("memory", what, (), "MB", _MEMORY, why_not=found.why_not)]
    beside = {"first_mb": found.first_bytes / _MB, "last_mb": found.last_bytes / _MB}
    return [Row("memory", what, (found.bytes / _MB,), "MB", _MEMORY, beside)]


def _loading(bench: _Bench) -> list[Row]:
    """An epoch from page cache (or what was read of it), and what a training step takes."""
    learning, steps = bench.learning, bench.extent.steps
    size = _size(next(learning.batches(FromStore())))
    n_batches = min(bench.store.n_tokens("train") // learning.spec.batch_tokens, _LOADED_BYTES // size) or 1

    def epoch() -> None:
        batches = learning.batches(FromStore())
        for _ in range(n_batches):
            next(batches)

    epoch()
    copy = Copy.on(torch.device("cpu"))
    found = bench.in_turn(
        {
            "loading": partial(_seconds, epoch),
            "training": partial(learning.alone, steps),
            "copying": partial(_seconds, copy),
        }
    )
    batch_ms = tuple(1e3 * seconds / n_batches for seconds in found["loading"])
    step_ms = tuple(1e3 * seconds / steps for seconds in found["training"])
    copied = copy.moved / statistics.median(found["copying"]) / 1e9
    beside, step = {"batch_bytes": size, "plain_copy_gb_per_second": copied}, {"step_ms": statistics.median(step_ms)}
    return [
        Row("loader", "loading from page cache", tuple(size / ms / 1e6 for ms in batch_ms), "GB/s", _LOADER, beside),
        Row("loader", "loading one batch", batch_ms, "ms"),
        Row("loader", "loading, of a training step", _ratios(batch_ms, step_ms), "", _STEP_SHARE, step),
    ]


def _size(batch: Batch) -> int:
    target = () if batch.target is batch.input else (batch.target,)
    return sum(value.nbytes for value in (batch.input, *target, *batch.side.values()))


def _shuffling(bench: _Bench) -> list[Row]:
    """How alike the rows of a batch are, as loaded and of a global order."""
    bench.progress.begin("shuffling")
    learning, epochs = bench.learning, bench.extent.rounds
    batches, batch_tokens = learning.batches(FromStore()), learning.spec.batch_tokens
    orders = correlation.compare(bench.store, learning.hook, batches, batch_tokens, epochs=epochs)
    beside = {f"{name}_mean": each.mean for name, each in vars(orders).items()}
    beside |= {f"{name}_standard_error": each.standard_error for name, each in vars(orders).items()}
    excess = orders.loader.excess(orders.shuffled)
    what = "within-batch correlation above a global shuffle's"
    return [Row("shuffling", what, (excess,), "standard errors", _SHUFFLING, beside)]


def _lockstep(bench: _Bench) -> list[Row]:
    """Several SAEs while the model runs against what all of that takes apart."""
    learning, steps = bench.learning, bench.extent.steps
    found = bench.in_turn(
        {
            "together": partial(learning.together, MEMBERS, steps),
            "one SAE": partial(learning.alone, steps),
            "model": partial(learning.model_alone, steps * learning.spec.batch_tokens),
        }
    )
    apart = tuple(MEMBERS * one + model for one, model in zip(found["one SAE"], found["model"], strict=True))
    beside = {f"{name}_seconds".replace(" ", "_"): statistics.median(seconds) for name, seconds in found.items()}
    what = f"{MEMBERS} SAEs on one stream, over {MEMBERS} trainings and one pass of the model"
    return [Row("lockstep", what, _ratios(found["together"], apart), "", _LOCKSTEP, beside)]


def _seconds(case: Callable[[], object]) -> float:
    started = time.perf_counter()
    case()
    return time.perf_counter() - started


def _ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, ...]:
    """Round by round, so that a machine whose speed drifts slows both."""
    return tuple(a / b for a, b in zip(over, under, strict=True))


@dataclass(frozen=True)
class Part:
    """A measurement; `in_rounds`: whether it takes as many pieces as there are rounds, or one."""

    measure: Callable[[_Bench], list[Row]]
    in_rounds: bool


PARTS: dict[str, Part] = {
    "caching": Part(_caching, in_rounds=True),
    "memory": Part(_memory, in_rounds=False),
    "loader": Part(_loading, in_rounds=True),
    "shuffling": Part(_shuffling, in_rounds=False),
    "lockstep": Part(_lockstep, in_rounds=True),
}
