"""Activations of the demo's language model, as all sides train on them: centred, scaled to a mean norm of sqrt(d)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saelab.activations import Batch, Loader, Store, stored
from saelab.files import home

HOOK = "blocks.10.hook_resid_post"


def find_store() -> Store:
    """The largest store of the demo's hook under saelab's home; `saelab cache configs/demo.yaml` makes one."""
    found = [Store(path.parent) for path in (home() / "activations").glob("*/manifest.json")]
    found = [store for store in found if HOOK in store.hooks]
    if not found:
        raise SystemExit(f"no store of {HOOK} under {home() / 'activations'}: run `saelab cache configs/demo.yaml`")
    return max(found, key=lambda store: store.n_tokens("train"))


def training(store: Store, batch_tokens: int, *, seed: int) -> Iterator[Batch]:
    """Endless batches, the same for the same seed."""
    scaling = store.scaling(HOOK)
    for batch in Loader(store, HOOK, batch_tokens=batch_tokens, seed=seed):
        x = scaling.apply(batch.input)
        yield Batch(x, x)


def heldout(store: Store) -> Iterator[Tensor]:
    """`[tok, d]` activations of held-out documents, a few thousand at a time."""
    scaling = store.scaling(HOOK)
    for batch in stored(store, "heldout", HOOK):
        yield from scaling.apply(batch.input).split(4096)


def with_gradients(batch: Batch) -> Batch:
    """The batch with random gradients at its side: what they are does not change a step's time."""
    return Batch(batch.input, batch.target, {"loss_grad": torch.randn_like(batch.input)})
