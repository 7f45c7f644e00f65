"""The most memory that training steps take, found in a process of their own where nothing else has been."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import torch

from saelab import machine
from saelab.bench.workload import MIDDLE, Case
from saelab.errors import SaelabError
from saelab.sae import VARIANTS
from saelab.training import Member

STEPS = 3
_FEW_TOKENS = 64
_FEW_LATENTS = 1024


@dataclass(frozen=True)
class Memory:
    """Attributes:
    peak_bytes: of building and of `STEPS` steps, beyond what was resident before (on a GPU: what torch had
        allocated); None where it could not be found.
    why_not: the reason.
    """

    peak_bytes: int | None
    why_not: str | None = None


def state_bytes(member: Member) -> int:
    """Parameters, their gradients, and Adam's two moments."""
    return 4 * sum(parameter.nbytes for parameter in member.sae.parameters())


def measure(case: Case) -> Memory:
    """In a new process with as many threads as this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_in_a_process_of_its_own, case, torch.get_num_threads()).result()
        except BrokenProcessPool:
            return Memory(None, "the process that measured it ended early: perhaps memory ran out")
        except (MemoryError, RuntimeError) as error:  # torch says both when there is no room
            return Memory(None, str(error).strip().splitlines()[0])


def _in_a_process_of_its_own(case: Case, threads: int) -> Memory:
    if case.kind not in VARIANTS:
        return Memory(None, "a variant that is registered in one process is unknown to another")
    torch.set_num_threads(threads)
    _load_code(case)
    gpu = case.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(case.device)
        before = torch.cuda.memory_allocated(case.device)
    else:
        machine.forget_peak()
        found = machine.memory_since()
        if found is None:
            return Memory(None, "resident memory is read from /proc, which this system has not")
        before = found[0]
    _steps(case)
    if gpu:
        return Memory(torch.cuda.max_memory_allocated(case.device) - before)
    found = machine.memory_since()
    return Memory(None if found is None else found[1] - before)


def _load_code(case: Case) -> None:
    """A step in small: libraries and compiled kernels are resident afterwards, and count as code, not as data."""
    work = case.work
    few = replace(work, n_latents=min(work.n_latents, max(_FEW_LATENTS, 4 * work.k)), l0=None)
    tokens = max(_FEW_TOKENS, few.n_latents // few.k)
    try:
        _steps(replace(case, work=replace(few, batch_tokens=tokens)), 1)
    except SaelabError:  # not at this size: then code counts
        return


def _steps(case: Case, steps: int = STEPS) -> None:
    member = case.member(MIDDLE.spec(case.work.batch_tokens))
    batches = [case.batch(member.sae, number) for number in range(steps)]
    for number, batch in enumerate(batches):
        member.step(batch, MIDDLE.first + number)
