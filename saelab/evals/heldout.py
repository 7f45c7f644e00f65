"""Activations, held-out ones as a rule, for evaluators that look at one token at a time."""

from __future__ import annotations

from collections.abc import Iterator

from saelab.activations.loader import Batch, stored
from saelab.errors import SettingError
from saelab.evals.base import Subject
from saelab.lm.windows import Split

_CHUNK_TOKENS = 4096


def check_max_tokens(max_tokens: int | None) -> None:
    """Raise where a limit on tokens leaves none."""
    if max_tokens is not None and max_tokens < 1:
        raise SettingError(
            "max_tokens", f"must be at least 1, found {max_tokens}", fix="null takes all that are stored"
        )


def heldout(subject: Subject, max_tokens: int | None) -> Iterator[Batch]:
    """The first `max_tokens` held-out tokens (all: None) in chunks: input `[tok, d_in]` and target `[tok, d_out]`,
    in the dtype and on the device of the SAE; reports progress."""
    return tokens_of("heldout", subject, max_tokens)


def tokens_of(split: Split, subject: Subject, max_tokens: int | None) -> Iterator[Batch]:
    """The same of a split."""
    stored_tokens = subject.store.n_tokens(split)
    total = stored_tokens if max_tokens is None else min(max_tokens, stored_tokens)
    done = 0
    for batch in stored(subject.store, split, subject.hook, target_hook=subject.target_hook):
        left = total - done
        for x, target in zip(
            batch.input[:left].split(_CHUNK_TOKENS), batch.target[:left].split(_CHUNK_TOKENS), strict=True
        ):
            yield Batch(x.to(subject.sae.W_dec), target.to(subject.sae.W_dec))
            done += x.shape[0]
            subject.report(done, total)
        if done >= total:
            return
