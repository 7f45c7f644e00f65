"""What training takes: one SAE's steps, several in lock-step while the language model runs, and the model alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from saelab import files
from saelab.activations import CaptureSpec, Store
from saelab.activations.loader import Batch, Batches
from saelab.activations.source import FromStore, FromStream, Source, Text
from saelab.bench.workload import seeded
from saelab.sae import build
from saelab.training import Member, Trainer, TrainSpec, precision
from saelab.training.trainer import wanted

_KEPT_BATCHES = 16
"""In memory, trained on in turn."""


@dataclass(frozen=True)
class Learning:
    """How SAEs learn.

    Attributes:
        kind: a variant's name; settings: its own.
        spec: the training.
        hook: the input; target_hook: what is reconstructed (None: the input).
        store: of `text`, as `capture` says.
    """

    kind: str
    settings: dict[str, Any]
    spec: TrainSpec
    hook: str
    target_hook: str | None
    store: Store
    text: Text
    capture: CaptureSpec

    @property
    def device(self) -> torch.device:
        return self.text.model().device

    def member(self, seed: int = 0) -> Member:
        with seeded(seed, self.device):
            blueprint = build(self.kind, self.store.width(self.hook), self.settings)
        resolved = precision.resolve(self.spec.precision, self.device)
        return Member(f"seed {seed}", blueprint, self.spec, precision=resolved, device=self.device)

    def batches(self, source: Source) -> Batches:
        """As training gets them from a source."""
        wants = wanted([self.member()], self.hook, self.target_hook)
        return source.batches(self.store, wants, self.text, self.capture)

    def alone(self, steps: int) -> float:
        """Seconds of one SAE's training steps on batches that are in memory."""
        loader = self.batches(FromStore())
        kept = _Kept([next(loader) for _ in range(min(steps, _KEPT_BATCHES))])
        trainer = self._trainer([self.member()], kept, Path())
        _wait(self.device)
        started = time.perf_counter()
        for number in range(steps):
            trainer.members[0].step(trainer.next_batch(), number)
        _wait(self.device)
        return time.perf_counter() - started

    def together(self, members: int, steps: int) -> float:
        """Seconds that several in lock-step take for so many steps on a stream that the model makes meanwhile, waiting
        for it included; measuring and saving are not."""
        rhythm = dict.fromkeys(("log_every_steps", "heldout_every_steps", "checkpoint_every_steps"), steps)
        spec = replace(self.spec, tokens=steps * self.spec.batch_tokens, heldout_tokens=1, **rhythm)
        short = replace(self, spec=spec)
        one_pass = self.text.windows.context_length * self.capture.batch_contexts
        batches = self.batches(FromStream(buffer_tokens=one_pass))
        try:
            with temporary_directory() as place:
                trainer = short._trainer([short.member(seed) for seed in range(members)], batches, place)
                trainer.run()
        finally:
            batches.close()
        return trainer.clock.seconds

    def _trainer(self, members: Sequence[Member], batches: Batches, place: Path) -> Trainer:
        return Trainer(members, self.store, self.hook, target_hook=self.target_hook, directory=place, batches=batches)

    def model_alone(self, n_tokens: int) -> float:
        """Seconds in which the language model gives so many activations, as the stream asks for them."""
        lm = self.text.model()
        hooks = [lm.hook(name) for name in dict.fromkeys((self.hook, self.target_hook or self.hook))]
        with_gradient = wanted([self.member()], self.hook, self.target_hook).loss_grad
        found, started = 0, time.perf_counter()
        for tokens, length in _passes(self.store, self.capture.batch_contexts):
            if with_gradient:
                values, _ = lm.capture_with_loss_grad(tokens, length, hooks)
            else:
                values = lm.capture(tokens, hooks)
            values[self.hook].cpu()
            found += int(self.store.mask.keep_tokens(tokens).sum())
            if found >= n_tokens:
                break
        return (time.perf_counter() - started) * n_tokens / found


def _passes(store: Store, batch_contexts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Training contexts, a forward pass at a time, again and again."""
    for part in cycle(store.contexts("train")):
        yield from zip(part.tokens.long().split(batch_contexts), part.length.split(batch_contexts), strict=True)


@dataclass
class _Kept:
    """Batches that are in memory, one after another, again and again."""

    kept: Sequence[Batch]

    def __post_init__(self) -> None:
        self._next = cycle(self.kept)

    def __next__(self) -> Batch:
        return next(self._next)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """On the disk that holds what saelab caches: a disk is a part of what is measured."""
    files.home().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=files.home()) as place:
        yield Path(place)
