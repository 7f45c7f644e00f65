"""What training takes: one SAE's steps, several in lock-step on one stream, and the language model alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from saelab import files
from saelab.activations import Store
from saelab.activations.loader import Batch, Loader
from saelab.bench.workload import seeded
from saelab.lm.model import LanguageModel
from saelab.sae import Scaling, build
from saelab.training import Member, Trainer, TrainSpec, precision

_KEPT_BATCHES = 16
"""In memory, trained on in turn."""


@dataclass(frozen=True)
class Learning:
    """How SAEs learn from a store.

    Attributes:
        kind: a variant's name; settings: its own.
        spec: the training.
        hook: what is learned; lm: the model that has it.
    """

    kind: str
    settings: dict[str, Any]
    spec: TrainSpec
    store: Store
    hook: str
    lm: LanguageModel

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def member(self, name: str, seed: int = 0) -> Member:
        with seeded(seed, self.device):
            blueprint = build(self.kind, self.store.width(self.hook), self.settings)
        resolved = precision.resolve(self.spec.precision, self.device)
        return Member(name, blueprint, self.spec, precision=resolved, device=self.device)

    def loader(self) -> Loader:
        """As training reads the store."""
        return Loader(
            self.store,
            self.hook,
            loss_grad="loss_grad" in self.member("").sae.coder.requires,
            batch_tokens=self.spec.batch_tokens,
            mix_shards=self.spec.mix_shards,
            seed=self.spec.seed,
        )

    def alone(self, steps: int) -> float:
        """Seconds of one SAE's training steps on batches that are in memory."""
        member, scaling = self.member("alone"), self.store.scaling(self.hook, centre=self.spec.centre)
        scaling = Scaling(scaling.mean.to(self.device), scaling.factor)
        kept = list(islice(self.loader(), min(steps, _KEPT_BATCHES)))
        _wait(self.device)
        started = time.perf_counter()
        for number, raw in enumerate(islice(cycle(kept), steps)):
            x = scaling.apply(raw.input.to(self.device))
            side = {name: value.to(self.device).float() / scaling.factor for name, value in raw.side.items()}
            member.step(Batch(x, x, side), number)
        _wait(self.device)
        return time.perf_counter() - started

    def together(self, members: int, steps: int) -> float:
        """Seconds that several in lock-step take for so many steps on batches that the model makes meanwhile, waiting
        for them included; measuring and saving are not."""
        rhythm = dict.fromkeys(("log_every_steps", "heldout_every_steps", "checkpoint_every_steps"), steps)
        spec = replace(self.spec, tokens=steps * self.spec.batch_tokens, heldout_tokens=1, **rhythm)
        short = replace(self, spec=spec)
        with temporary_directory() as place:
            all_of_them = [short.member(str(seed), seed) for seed in range(members)]
            trainer = Trainer(all_of_them, self.store, self.hook, directory=place, batches=_FromModel(self))
            trainer.run()
        return trainer.clock.seconds

    def model_alone(self, n_tokens: int) -> float:
        """Seconds in which the language model gives so many activations."""
        found, started = 0, time.perf_counter()
        for rows in _activations(self):
            found += len(rows)
            if found >= n_tokens:
                break
        return (time.perf_counter() - started) * n_tokens / found


def _activations(learning: Learning) -> Iterator[Tensor]:
    """`[tok, d]`, a forward pass at a time, over the store's contexts again and again."""
    lm, store = learning.lm, learning.store
    hook = lm.hook(learning.hook)
    while True:
        for contexts in store.contexts("train"):
            for tokens in contexts.tokens.split(store.manifest["content"]["capture"]["batch_contexts"]):
                yield lm.capture(tokens.long(), [hook])[hook.name][store.mask.keep_tokens(tokens)].cpu()


class _FromModel:
    """Batches straight from the language model."""

    def __init__(self, learning: Learning):
        self._size = learning.spec.batch_tokens
        self._rows, self._source = torch.empty(0, learning.store.width(learning.hook)), _activations(learning)

    def __next__(self) -> Batch:
        while len(self._rows) < self._size:
            self._rows = torch.cat([self._rows, next(self._source)])
        batch, self._rows = self._rows[: self._size], self._rows[self._size :]
        return Batch(batch, batch)

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
