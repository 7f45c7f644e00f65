"""Peak memory of a training step, each contestant in a process of its own.

    python -m tests.benchmarks.memory saelab --n-latents 65536 --k 64

prints one JSON document: bytes above what the process held before it built anything. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from saelab.machine import forget_peak, memory_since

from .contest import Recipe
from .progress import Progress
from .verdict import Verdict

STEPS = 3
_COPIES = 4
"""Of every parameter: itself, its gradient, and Adam's two moments."""


@dataclass(frozen=True)
class Memory:
    """What a step needs.

    Attributes:
        peak_bytes: at most, above the process before anything was built.
        state_bytes: of parameters, gradients and Adam's moments, which every contestant has.
    """

    entry: str
    n_latents: int
    k: int
    batch_tokens: int
    peak_bytes: int
    state_bytes: int

    @property
    def above_bytes(self) -> int:
        """Beside the state: what a step allocates."""
        return self.peak_bytes - self.state_bytes

    def document(self) -> dict[str, Any]:
        return vars(self) | {"above_bytes": self.above_bytes}


def measure(entry: str, recipe: Recipe, threads: int) -> Memory:
    """Run a process that measures itself."""
    numbers = {
        "n-latents": recipe.n_latents,
        "k": recipe.k,
        "batch-tokens": recipe.batch_tokens,
        "d-model": recipe.d_model,
        "threads": threads,
    }
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.memory", entry]
    command += [f"--{name}={value}" for name, value in numbers.items()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


_ALIKE = 1.25
"""Memory above the state may grow by this factor from F 16,384 to F 131,072; the matrix `tok x lat` grows by 8."""
_HALF = 2.0
_FLAT, _WIDE = Recipe(n_latents=16384), Recipe(n_latents=65536, k=64)
PLAN: tuple[tuple[str, Recipe], ...] = (
    *(("saelab", replace(_FLAT, n_latents=width)) for width in (4096, 16384, 65536, 131072)),
    *((peer, _FLAT) for peer in ("sparsify", "SAELens", "SAELens, sparse, fused Adam", "dictionary_learning")),
    *((entry, _WIDE) for entry in ("saelab", "SAELens", "SAELens, sparse, fused Adam", "sparsify")),
)
_SECONDS = 12.0


def measure_all(threads: int, progress: Progress) -> list[Memory]:
    """Every process of `PLAN`, one after the other."""
    found: list[Memory] = []
    for entry, recipe in PLAN:
        found.append(measure(entry, recipe, threads))
        progress.advance(_SECONDS)
        progress.say(f"memory of {entry} at F {recipe.n_latents:,}: {found[-1].peak_bytes / 2**20:,.0f} MiB")
    return found


def expected_seconds() -> float:
    return _SECONDS * len(PLAN)


def judge(found: Sequence[Memory]) -> list[Verdict]:
    """Half of SAELens' peak, and no growth with F above the state."""
    at = {(memory.entry, memory.n_latents, memory.k): memory for memory in found}
    peak = at["SAELens", 65536, 64].peak_bytes / at["saelab", 65536, 64].peak_bytes
    growth = at["saelab", 131072, 32].above_bytes / at["saelab", 16384, 32].above_bytes
    return [
        Verdict(
            "topk, F 65,536, k 64: peak memory of SAELens / saelab", peak, f"at least {_HALF:g}", None, peak >= _HALF
        ),
        Verdict(
            "topk, k 32: saelab's memory above parameters, gradients and Adam's moments, F 131,072 / F 16,384",
            growth,
            f"at most {_ALIKE:g}",
            None,
            growth <= _ALIKE,
        ),
    ]


def _measure_here(entry: str, recipe: Recipe) -> Memory:
    """A small one first, so that libraries have loaded, compiled and allocated what they keep; then the real one."""
    small = replace(recipe, n_latents=max(4 * recipe.k, 256), batch_tokens=64)
    _train(entry, small)
    gc.collect()
    before, _ = _memory()
    forget_peak()
    _train(entry, recipe)
    peak = _memory()[1] - before
    parameters = 2 * recipe.n_latents * recipe.d_model + recipe.n_latents + recipe.d_model
    return Memory(entry, recipe.n_latents, recipe.k, recipe.batch_tokens, peak, 4 * _COPIES * parameters)


def _memory() -> tuple[int, int]:
    """Resident bytes now, and the most since `forget_peak`."""
    found = memory_since()
    if found is None:
        raise SystemExit("this system does not say how much memory a process has had at most")
    return found


def _train(entry: str, recipe: Recipe) -> None:
    import torch

    from saelab.activations.loader import Batch

    from .cases import topk_entries
    from .contest import random_start

    start = random_start(recipe, seed=0)
    runner = topk_entries(recipe.k)[entry](recipe, start)
    del start
    x = torch.randn(recipe.batch_tokens, recipe.d_model)
    for _ in range(STEPS):
        runner.step(Batch(x, x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("entry")
    for name, default in (("n-latents", 16384), ("k", 32), ("batch-tokens", 2048), ("d-model", 576), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = vars(parser.parse_args())
    import torch

    torch.set_num_threads(chosen.pop("threads"))
    print(json.dumps(vars(_measure_here(chosen.pop("entry"), Recipe(**chosen)))))  # noqa: T201


if __name__ == "__main__":
    main()
