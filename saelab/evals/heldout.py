"""Held-out activations for evaluators that look at one token at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from saelab.activations.loader import stored
from saelab.errors import SettingError
from saelab.evals.base import Subject

_CHUNK_TOKENS = 4096


def check_max_tokens(max_tokens: int | None) -> None:
    """Raise where a limit on tokens leaves none."""
    if max_tokens is not None and max_tokens < 1:
        raise SettingError(
            "max_tokens", f"must be at least 1, found {max_tokens}", fix="null takes all that are stored"
        )


def heldout(subject: Subject, max_tokens: int | None) -> Iterator[Tensor]:
    """The first `max_tokens` held-out activations (all: None) in chunks `[tok, d]`, in the dtype and on the
    device of the SAE; reports progress."""
    stored_tokens = subject.store.n_tokens("heldout")
    total = stored_tokens if max_tokens is None else min(max_tokens, stored_tokens)
    done = 0
    for batch in stored(subject.store, "heldout", subject.hook):
        for chunk in batch.input[: total - done].split(_CHUNK_TOKENS):
            yield chunk.to(subject.sae.W_dec)
            done += chunk.shape[0]
            subject.report(done, total)
        if done >= total:
            return
