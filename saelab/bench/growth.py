"""Whether caching keeps its memory, however long it goes on: found in a process of its own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import torch

from saelab import machine
from saelab.activations import CaptureSpec, capture
from saelab.activations.capture import Progress
from saelab.bench.lockstep import temporary_directory
from saelab.lm.corpus import DataSpec
from saelab.lm.mask import MaskSpec
from saelab.lm.model import ModelSpec, load
from saelab.lm.windows import WindowSpec
from saelab.testing.tiny import tiny_text

STRETCH_TOKENS = 100_000
"""Memory at the beginning and at the end is the most in this many tokens."""
EARLY_HOOK = "blocks.0.hook_resid_post"
"""Read behind the first block, so that a million tokens take minutes; what is kept of them is as wide."""
_DOCUMENT_WORDS = 500
_HELDOUT_TOKENS = 1000


@dataclass(frozen=True)
class Growth:
    """Resident memory that no file holds, while caching.

    Attributes:
        first_bytes, last_bytes: the most in the first and in the last `STRETCH_TOKENS` (or halves).
        why_not: the reason where there are none.
    """

    tokens: int
    first_bytes: int | None = None
    last_bytes: int | None = None
    why_not: str | None = None

    @property
    def bytes(self) -> int | None:
        return None if self.first_bytes is None or self.last_bytes is None else self.last_bytes - self.first_bytes


@dataclass(frozen=True)
class Caching:
    """What is cached, of generated text, at `EARLY_HOOK`."""

    model: ModelSpec
    windows: WindowSpec
    mask: MaskSpec
    spec: CaptureSpec
    tokens: int


def measure(caching: Caching) -> Growth:
    """In a new process with as many threads as this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_in_a_process_of_its_own, caching, torch.get_num_threads()).result()
        except BrokenProcessPool:
            return Growth(caching.tokens, why_not="the process that measured it ended early: perhaps memory ran out")


def _in_a_process_of_its_own(caching: Caching, threads: int) -> Growth:
    torch.set_num_threads(threads)
    if machine.own_memory() is None:
        return Growth(caching.tokens, why_not="it is read from /proc, which this system has not")
    samples: list[tuple[int, int]] = []

    def sample(progress: Progress) -> None:
        samples.append((progress.done_tokens, machine.own_memory() or 0))

    with temporary_directory() as place:
        documents = 1 + 2 * caching.tokens // _DOCUMENT_WORDS  # a word is a token or more
        text = tiny_text(place / "text.jsonl", documents=documents, words=_DOCUMENT_WORDS)
        spec = replace(
            caching.spec,
            hooks=(EARLY_HOOK,),
            tokens=caching.tokens,
            heldout_tokens=_HELDOUT_TOKENS,
            loss_grad=False,
            dir=str(place / "store"),
        )
        windows = replace(caching.windows, max_document_tokens=None)
        capture(load(caching.model), DataSpec(str(text)), windows, caching.mask, spec, report=sample)
    return _growth(caching.tokens, samples)


def _growth(tokens: int, samples: list[tuple[int, int]]) -> Growth:
    """From memory after so many tokens each."""
    last = samples[-1][0]
    stretch = max(min(STRETCH_TOKENS, last // 2), samples[0][0])
    return Growth(
        tokens,
        first_bytes=max(size for done, size in samples if done <= stretch),
        last_bytes=max(size for done, size in samples if done >= last - stretch),
    )
