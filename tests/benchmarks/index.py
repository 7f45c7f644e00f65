"""Build an index of a synthetic SAE of any size, and say what it cost: `python -m tests.benchmarks.index DIR`.

A run's directory is written around it, so that the browser (and `tests.benchmarks.browse`) can open it.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from saelab.activations.store import Contexts
from saelab.features import Bundle, IndexSpec
from saelab.features.build import Origin, build_index
from saelab.features.codes import Part
from saelab.machine import own_memory

_PART_TOKENS = 2**16
_WORDS = 5000


class SyntheticCodes:
    """Codes drawn from a seed: latents by a power law of density, values from a gamma distribution."""

    context_length = 128

    def __init__(self, n_latents: int, n_tokens: int, l0: int):
        self.n_latents, self.n_tokens, self.l0 = n_latents, n_tokens, l0
        rarity = np.arange(1, n_latents + 1) ** -0.7
        self._cumulative = np.cumsum(rarity / rarity.sum())
        self._names = np.random.default_rng(0).permutation(n_latents).astype(np.int32)

    def parts(self) -> Sequence[int]:
        return [min(_PART_TOKENS, self.n_tokens - start) for start in range(0, self.n_tokens, _PART_TOKENS)]

    def part(self, number: int) -> Part:
        rng = np.random.default_rng([1, number])
        first = number * _PART_TOKENS
        token = first + rng.permutation(self.parts()[number]).astype(np.int64)
        drawn = np.searchsorted(self._cumulative, rng.random((len(token), self.l0))).clip(max=self.n_latents - 1)
        drawn.sort(axis=1)
        kept = np.ones(drawn.shape, bool)
        kept[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        return Part(
            (token // self.context_length).astype(np.int32),
            (token % self.context_length).astype(np.int32),
            np.concatenate([[0], kept.sum(1).cumsum()]),
            self._names[drawn[kept]],
            rng.gamma(2.0, 1.0, int(kept.sum())).astype(np.float32),
        )

    def contexts(self) -> Iterator[Contexts]:
        per_file = 8192
        total = -(-self.n_tokens // self.context_length)
        for start in range(0, total, per_file):
            n = min(per_file, total - start)
            rng = np.random.default_rng([2, start])
            tokens = torch.from_numpy(rng.integers(0, _WORDS, (n, self.context_length), dtype=np.int32))
            documents = (torch.arange(start, start + n, dtype=torch.int32) // 4)[:, None].expand(
                -1, self.context_length
            )
            yield Contexts(tokens, documents, torch.full((n,), self.context_length, dtype=torch.int32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="a run's directory, made where it is not there")
    parser.add_argument("--latents", type=int, default=131_072)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--d-model", type=int, default=256)
    chosen = parser.parse_args()
    codes = SyntheticCodes(chosen.latents, chosen.tokens, chosen.l0)
    W_dec = torch.randn(chosen.latents, chosen.d_model, generator=torch.Generator().manual_seed(0))
    sae = {"sha256": "0" * 64, "kind": "synthetic", "settings": {"n_latents": chosen.latents}, "provenance": {}}
    origin = Origin(codes, W_dec, "blocks.0.hook_resid_post", None, _words, sae, vars(chosen) | {"directory": ""})
    watch = _Watch()
    watch.start()
    started = time.perf_counter()
    stage: list[str] = []

    def report(name: str, done: int, total: int) -> None:
        if stage[-1:] != [name]:
            stage.append(name)
            print(f"{time.perf_counter() - started:7.0f} s  {name}", flush=True)  # noqa: T201

    directory = chosen.directory / "index"
    build_index(origin, IndexSpec(), directory, report)
    seconds = time.perf_counter() - started

    size = sum(path.stat().st_size for path in directory.iterdir() if not path.name.startswith("contexts"))
    bundle = Bundle(directory)
    print(  # noqa: T201
        f"{bundle.n_latents:,} latents x {bundle.n_tokens:,} tokens, L0 {bundle.manifest['numbers']['l0']:.1f}: "
        f"{seconds:.0f} s, at most {watch.most / 1e6:,.0f} MB of memory that no file holds "
        f"({watch.first / 1e6:,.0f} MB before, {W_dec.numel() * 4 / 1e6:,.0f} of them the decoder), "
        f"{size / bundle.n_latents:,.0f} bytes a latent beyond the contexts"
    )


def _words() -> list[str]:
    return [f" word{i}" if i % 3 else f"Part{i}" for i in range(_WORDS)]


class _Watch(threading.Thread):
    """Looks again and again at the memory that no file holds: mapped parts are the system's to drop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = self.first = own_memory() or 0

    def run(self) -> None:
        while True:
            self.most = max(self.most, own_memory() or 0)
            time.sleep(0.05)


if __name__ == "__main__":
    main()
