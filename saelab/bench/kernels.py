"""Each sparse primitive with each implementation, checked against the reference and timed in alternation.

Effective bandwidth is the bytes that a primitive moves where nothing is cached, over the time it takes; caches
that serve a row twice can bring it above the bandwidth of a copy. With e entries, T tokens, F latents, d columns
and numbers of s bytes (latents are 4 bytes, columns that a top-k finds 8):

    gather              e (d s + s + 4) + T d s     a row of W, a value and a latent per entry; a row out per token
    sampled_dot         e (d s + s + 4) + T d s     a row of W and a latent per entry, a value out; G once
    transposed_scatter  e (d s + s + 4) + F d s     a row of G, a value and a latent per entry; a row out per latent
    latent_sum          e (s + 4) + F s
    top_k               T F s + e (s + 8)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saelab.bench import timing
from saelab.bench.progress import Progress, Report
from saelab.bench.timing import Copy, Times
from saelab.bench.workload import Workload
from saelab.kernels import Support, reference
from saelab.kernels.dispatch import IMPLEMENTATIONS, choose, choose_top_k, implementation, unfit

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_NOISE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""The largest error, over the largest value, that is rounding."""
_COPY = "copy of memory"


@dataclass(frozen=True, eq=False)
class Operands:
    """What the primitives work on: k random entries a token.

    Attributes:
        values: `[entries]`; weight: `[lat, d]`; rows: `[tok, d]`; scores: `[tok, lat]`; k: of `top_k`.
    """

    values: Tensor
    latents: Tensor
    weight: Tensor
    rows: Tensor
    scores: Tensor
    k: int

    @classmethod
    def draw(cls, work: Workload, dtype: torch.dtype, device: torch.device) -> Operands:
        generator = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype).to(device)

        scores = noise(work.batch_tokens, work.n_latents)
        latents = scores.float().topk(work.k, dim=1).indices
        values, weight = noise(work.batch_tokens * work.k), noise(work.n_latents, work.d_model)
        return cls(values, latents, weight, noise(work.batch_tokens, work.d_model), scores, work.k)

    @property
    def support(self) -> Support:
        """A new one at each call: what one caches is a part of the work."""
        return Support.from_rows(self.latents, len(self.weight))

    def wider(self) -> Operands:
        """In float64, for the truth."""
        floats = (self.values, self.weight, self.rows, self.scores)
        values, weight, rows, scores = (block.double() for block in floats)
        return Operands(values, self.latents, weight, rows, scores, self.k)


@dataclass(frozen=True)
class Primitive:
    """One of the functions that every implementation has.

    Attributes:
        call: the function on operands.
        moved: bytes, from entries, tokens, latents, columns and the size of a number.
        differs: how far a result is from the truth, in units of the largest value.
    """

    call: Callable[[Callable[..., Any], Operands], Any]
    moved: Callable[[int, int, int, int, int], int]
    differs: Callable[[Any, Any, Operands], float]

    def bytes_moved(self, given: Operands) -> int:
        n_tokens, n_latents = given.scores.shape
        return self.moved(given.latents.numel(), n_tokens, n_latents, given.rows.shape[1], given.values.itemsize)


def _largest_error(found: Tensor, wanted: Tensor, given: Operands) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    return float((found.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


def _wrong_selection(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], given: Operands) -> float:
    """The largest error of the values in order; infinite where columns are not theirs, or named twice."""
    values, columns = found
    distinct = columns.sort(dim=1).values.diff(dim=1).ne(0).all()
    if columns.shape != wanted[1].shape or not distinct or not values.equal(given.scores.gather(1, columns.long())):
        return float("inf")
    return _largest_error(values.sort(dim=1, descending=True).values, wanted[0], given)


PRIMITIVES = {
    "gather": Primitive(
        lambda f, o: f(o.values, o.support, o.weight),
        lambda e, T, F, d, s: e * (d * s + s + 4) + T * d * s,
        _largest_error,
    ),
    "sampled_dot": Primitive(
        lambda f, o: f(o.rows, o.weight, o.support),
        lambda e, T, F, d, s: e * (d * s + s + 4) + T * d * s,
        _largest_error,
    ),
    "transposed_scatter": Primitive(
        lambda f, o: f(o.values, o.support, o.rows),
        lambda e, T, F, d, s: e * (d * s + s + 4) + F * d * s,
        _largest_error,
    ),
    "latent_sum": Primitive(
        lambda f, o: f(o.values, o.support), lambda e, T, F, d, s: e * (s + 4) + F * s, _largest_error
    ),
    "top_k": Primitive(lambda f, o: f(o.scores, o.k), lambda e, T, F, d, s: T * F * s + e * (s + 8), _wrong_selection),
}


@dataclass(frozen=True)
class Row:
    """One primitive of one implementation.

    Attributes:
        case: "primitive/implementation".
        moved: bytes of one call, see above.
        chosen: whether this is what the dispatcher chooses for such tensors.
        error: the largest, over the largest value; None where that is not a number.
        times: of one call; None where it is refused.
        copy: the bandwidth of a copy, bytes a second.
        refused: why there are no times.
    """

    case: str
    moved: int
    chosen: bool
    error: float | None = None
    times: Times | None = None
    copy: float | None = None
    refused: str | None = None

    @property
    def primitive(self) -> str:
        return self.case.partition("/")[0]

    @property
    def bandwidth(self) -> float | None:
        """Effective bytes a second."""
        return None if self.times is None else self.moved / (self.times.median / 1e3)

    @property
    def ratios(self) -> dict[str, float]:
        """The effective bandwidth over a copy's."""
        return (
            {} if self.bandwidth is None or self.copy is None else {"bandwidth_over_copy": self.bandwidth / self.copy}
        )

    def document(self, work: Workload) -> dict[str, Any]:
        """JSON-able."""
        times = {"ms_median": None} if self.times is None else self.times.document()
        return {
            "case": self.case,
            **times,
            "tokens_per_second": None if self.times is None else 1e3 * work.batch_tokens / self.times.median,
            "peak_memory_bytes": None,
            "floors": {} if self.copy is None else {"copy_bytes_per_second": self.copy},
            "ratios": self.ratios,
            "chosen": self.chosen,
            "moved_bytes": self.moved,
            "bytes_per_second": self.bandwidth,
            "error": self.error,
            "refused": self.refused,
        }


def run(
    work: Workload,
    *,
    dtype: torch.dtype,
    device: torch.device,
    rounds: int = 9,
    report: Report = lambda done, total, note: None,
) -> list[Row]:
    """A row for each primitive and each implementation that can take such tensors, checked and then timed."""
    given = Operands.draw(work, dtype, device)
    wider = given.wider()
    chosen = choose(given.weight, given.support)
    progress = Progress(report, len(PRIMITIVES) + rounds)
    rows: dict[str, Row] = {}
    calls: dict[str, Callable[[], object]] = {}
    for what, primitive in PRIMITIVES.items():
        progress.begin(f"{what}: against the reference")
        truth = primitive.call(getattr(reference, what), wider)
        dispatched = choose_top_k() if what == "top_k" else chosen
        for name in IMPLEMENTATIONS:
            fits = unfit(name, given.weight) is None
            module = implementation(name) if fits else dispatched
            if not hasattr(module, what) or not (fits or IMPLEMENTATIONS[name] == dispatched.__name__):
                continue
            case = f"{what}/{name}"
            row = Row(case, primitive.bytes_moved(given), module is dispatched)
            rows[case] = _checked(row, primitive, getattr(module, what), given, truth)
            if rows[case].refused is None:
                calls[case] = partial(primitive.call, getattr(module, what), given)
    copy = Copy.on(device)
    found = timing.alternate({**calls, _COPY: copy}, rounds, device, progress)
    bandwidth = copy.bandwidth(found[_COPY])
    report(progress.total, progress.total, "")
    return [replace(row, times=found.get(case), copy=bandwidth) for case, row in rows.items()]


def _checked(row: Row, primitive: Primitive, function: Callable[..., Any], given: Operands, truth: Any) -> Row:
    try:
        error = primitive.differs(primitive.call(function, given), truth, given)
    except (RuntimeError, NotImplementedError) as failure:
        return replace(row, refused=f"it fails: {str(failure).strip().splitlines()[0]}")
    if error <= _NOISE[given.values.dtype]:  # False for NaN
        return replace(row, error=error)
    wrong = f"differs from the reference by {error:.2g} of the largest value"
    return replace(row, error=error if math.isfinite(error) else None, refused=wrong)
