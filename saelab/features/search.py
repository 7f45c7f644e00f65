"""Finding latents: by statistics, by the tokens they fire on or promote, by what was written about them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saelab.features.bundle import Bundle

TOKENS_SHOWN = 12
"""Matching tokens that `Tokens.texts` names."""

STATISTICS: dict[str, Callable[[Bundle], NDArray[np.float64]]] = {
    "latent": lambda bundle: np.arange(bundle.n_latents, dtype=np.float64),
    "density": lambda bundle: bundle.density,
    "max": lambda bundle: bundle.columns["max"].astype(np.float64),
    "min": lambda bundle: bundle.columns["min"].astype(np.float64),
    "mean": lambda bundle: bundle.columns["mean"].astype(np.float64),
    "norm": lambda bundle: bundle.columns["decoder_norm"].astype(np.float64),
}
"""What latents can be sorted and filtered by: `[latents]` each."""

How = Literal["exact", "case", "part"]
Role = Literal["fires", "promotes"]
TOKEN_COLUMNS: dict[Role, tuple[str, str]] = {
    "fires": ("fire_tokens", "fire_share"),
    "promotes": ("top_tokens", "top_logits"),
}
"""Columns of the tokens a latent has to do with, and how much."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of the vocabulary that match what a person typed.

    Attributes:
        ids: of all of them; texts: of the first `TOKENS_SHOWN`.
        how: the text itself, with or without a leading space; but for upper and lower case; or as a part of a token.
    """

    ids: NDArray[np.int64]
    texts: Sequence[str]
    how: How


class Vocabulary:
    """The tokens of a bundle, ready to be searched."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self._folded = [text.casefold() for text in texts]

    def find(self, typed: str) -> Tokens:
        """The closest kind of match that there is; no tokens where there is none."""
        bare, folded = typed.strip(" "), typed.strip(" ").casefold()
        if not bare:
            return self._tokens([], "exact")
        found = [i for i, text in enumerate(self.texts) if text.strip(" ") == bare]
        if found:
            return self._tokens(found, "exact")
        found = [i for i, text in enumerate(self._folded) if text.strip(" ") == folded]
        if found:
            return self._tokens(found, "case")
        return self._tokens([i for i, text in enumerate(self._folded) if folded in text], "part")

    def _tokens(self, ids: list[int], how: How) -> Tokens:
        return Tokens(np.asarray(ids, dtype=np.int64), [self.texts[i] for i in ids[:TOKENS_SHOWN]], how)


def by_token(bundle: Bundle, ids: NDArray[np.int64], role: Role) -> NDArray[np.float64]:
    """`[latents]`: the greatest share of activation on these tokens, or logit of them; NaN where none is listed."""
    tokens, numbers = (bundle.columns[name] for name in TOKEN_COLUMNS[role])
    wanted = np.zeros(
        max(len(bundle.vocabulary), int(tokens.max(initial=0)) + 1, int(ids.max(initial=0)) + 1) + 1, bool
    )
    wanted[ids] = True  # the last place stays False: lists end in -1
    hit = wanted[tokens]
    best = np.where(hit, numbers, -np.inf).max(axis=1, initial=-np.inf)
    return np.where(np.isneginf(best), np.nan, best)


def only(bundle: Bundle, latents: Collection[int]) -> NDArray[np.bool_]:
    """`[latents]`: which are among these; numbers that are no latent here are passed over."""
    keep = np.zeros(bundle.n_latents, dtype=bool)
    listed = np.fromiter(latents, dtype=np.int64, count=len(latents))
    keep[listed[(listed >= 0) & (listed < bundle.n_latents)]] = True
    return keep


def ranked(keep: NDArray[np.bool_], key: NDArray[np.float64], *, descending: bool) -> NDArray[np.int64]:
    """The latents kept, in the order of `key`; ties by number, and those without a value last."""
    kept = np.flatnonzero(keep)
    values = key[kept]
    return kept[np.argsort(-values if descending else values, kind="stable")]
