"""Whole training steps of variants beside the floors under them, all in alternation in one process.

A step is all that a trainer does with a batch: forward, backward, optimiser, metrics, tracker; here in the middle
of a training, on normal noise. A case whose steps are not those of the reference kernels gets no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

import torch

from saelab import machine
from saelab.bench import agreement, floors, memory, timing
from saelab.bench.agreement import Agreement
from saelab.bench.memory import Memory, state_bytes
from saelab.bench.progress import Progress, Report
from saelab.bench.timing import Copy, Times
from saelab.bench.workload import MIDDLE, Case, Workload
from saelab.errors import SaelabError
from saelab.kernels.dispatch import decide
from saelab.sae import VARIANTS
from saelab.sae.coders import Precision
from saelab.sae.variants import topk
from saelab.training import Member, precision

_BATCHES = 3
"""Seen in turn: one batch again and again would be learned by heart."""
_COPY = "copy of memory"
NOT_ASKED = Memory(None, "not asked for")


@dataclass(frozen=True)
class Row:
    """One variant's training step.

    Attributes:
        case: the variant; settings: its arguments.
        precision: of selection, resolved.
        kernels: which run; kernels_because: why.
        l0: active latents per token in the steps measured.
        times: of a step; None where it is refused.
        memory: the most that steps take; state_bytes: parameters, gradients and moments, a part of it.
        floors: ms of each floor, by name.
        check: what was compared with the reference; None where nothing could be.
        refused: why there are no times.
    """

    case: str
    settings: dict[str, Any]
    batch_tokens: int
    precision: Precision
    kernels: str | None = None
    kernels_because: str | None = None
    l0: float | None = None
    times: Times | None = None
    memory: Memory = NOT_ASKED
    state_bytes: int | None = None
    floors: dict[str, Times] = field(default_factory=dict)
    copy_bytes_per_second: float | None = None
    check: Agreement | None = None
    refused: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.times is None else 1e3 * self.batch_tokens / self.times.median

    @property
    def ratios(self) -> dict[str, float]:
        """The step's median over each floor's."""
        if self.times is None:
            return {}
        return {name: self.times.median / floor.median for name, floor in self.floors.items()}

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        times = {"ms_median": None} if self.times is None else self.times.document()
        bandwidth = {} if self.copy_bytes_per_second is None else {"copy_bytes_per_second": self.copy_bytes_per_second}
        return {
            "case": self.case,
            **times,
            "tokens_per_second": self.tokens_per_second,
            "peak_memory_bytes": self.memory.peak_bytes,
            "peak_memory_why_not": self.memory.why_not,
            "state_bytes": self.state_bytes,
            "floors": {f"{name}_ms": floor.median for name, floor in self.floors.items()} | bandwidth,
            "ratios": self.ratios,
            "l0": self.l0,
            "precision": self.precision,
            "kernels": self.kernels,
            "kernels_because": self.kernels_because,
            "settings": self.settings,
            "check": None if self.check is None else self.check.document(),
            "refused": self.refused,
        }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """JSON-able; with the threads in use now, and the device that was measured."""
    return machine.describe() | {"torch": torch.__version__, "device": str(device)}


@dataclass(eq=False)
class _Running:
    """A case that has passed its check, ready to be stepped."""

    case: Case
    check: Agreement
    memory: Memory
    member: Member = field(init=False)
    l0: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.member = self.case.member(MIDDLE.spec(self.case.work.batch_tokens))
        self.batches = [self.case.batch(self.member.sae, number) for number in range(_BATCHES)]
        self.numbers = count(MIDDLE.first)

    def __call__(self) -> None:
        number = next(self.numbers)
        self.l0.append(self.member.step(self.batches[number % _BATCHES], number)["metrics/l0"])

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """Of what the optimiser moves."""
        return tuple(parameter.shape for parameter in self.member.sae.parameters())

    def row(self, found: dict[str, Times], shared: Iterable[str], copy: Copy) -> Row:
        sae, case = self.member.sae, self.case
        with torch.no_grad():
            support = sae.encode(self.batches[0].input, self.batches[0].side).support
        kernels, reason = decide(sae.W_dec, support)
        return Row(
            case.kind,
            case.settings,
            case.work.batch_tokens,
            case.precision,
            kernels=kernels,
            kernels_because=reason,
            l0=float(torch.stack(self.l0).float().mean()),
            times=found[case.kind],
            memory=self.memory,
            state_bytes=state_bytes(self.member),
            floors={name: found[name] for name in shared} | {"optimiser_pass": found[_optimiser(self.shapes)]},
            copy_bytes_per_second=copy.bandwidth(found[_COPY]),
            check=self.check,
        )


def run(
    kinds: Sequence[str],
    work: Workload,
    *,
    wanted: Literal["auto"] | Precision = "auto",
    device: torch.device,
    rounds: int = 9,
    with_memory: bool = True,
    report: Report = lambda done, total, note: None,
) -> list[Row]:
    """A row for each variant, in the order in which they are named: checked, its memory measured, then timed.

    Args:
        kinds: names in `saelab.sae.VARIANTS`; TopK if there are none.
        work: sizes.
        wanted: precision of selection.
        rounds: in which each case and each floor is timed once.
        with_memory: measure peak memory, in a process of its own for each case.

    Raises:
        SaelabError: an unknown variant.
    """
    kinds = list(dict.fromkeys(kinds)) or [topk.__name__]
    for kind in kinds:
        VARIANTS[kind]  # an unknown one is refused before a minute has passed
    cases = [Case(kind, work, precision.resolve(wanted, device), device) for kind in kinds]
    progress = Progress(report, len(cases) * (2 if with_memory else 1) + rounds)
    rows: dict[str, Row] = {}
    running = []
    for case in cases:
        prepared = _prepare(case, with_memory, progress)
        if isinstance(prepared, Row):
            rows[case.kind] = prepared
        else:
            running.append(prepared)
    rows |= _timed(running, work, device, rounds, progress)
    report(progress.total, progress.total, "")
    return [rows[case.kind] for case in cases]


def _prepare(case: Case, with_memory: bool, progress: Progress) -> _Running | Row:
    """A case ready to be timed, or the row that says why it is not."""
    row = Row(case.kind, case.settings, case.work.batch_tokens, case.precision)
    progress.begin(f"{case.kind}: against the reference")
    try:
        check = agreement.compare(case)
        if check.refused:
            return replace(row, check=check, refused=check.refused)
        if with_memory:
            progress.begin(f"{case.kind}: memory")
        return _Running(case, check, memory.measure(case) if with_memory else NOT_ASKED)
    except SaelabError as error:
        return replace(row, refused=error.message)
    except RuntimeError as error:  # a kernel that fails, or no room
        return replace(row, refused=f"it fails: {str(error).strip().splitlines()[0]}")


def _timed(
    running: Sequence[_Running], work: Workload, device: torch.device, rounds: int, progress: Progress
) -> dict[str, Row]:
    """Rows by variant, with the floors of the same rounds."""
    if not running:
        return {}
    shared, copy = floors.products(work, device), Copy.on(device)
    passes = {_optimiser(each.shapes): floors.optimiser_pass(each.shapes, device) for each in running}
    steps = {each.case.kind: each for each in running}
    found = timing.alternate({**steps, **shared, **passes, _COPY: copy}, rounds, device, progress)
    return {kind: each.row(found, shared, copy) for kind, each in steps.items()}


def _optimiser(shapes: Iterable[torch.Size]) -> str:
    """The name of the optimiser pass over these; cases of the same shapes share it."""
    return f"optimiser pass over {[list(shape) for shape in shapes]}"
