"""Which latents the table of features is asked for, and which those are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from saelab.features import Bundle, search
from saelab.features.annotations import Annotation
from saelab_dashboard.panels import token
from saelab_dashboard.session import OpenRun

SEARCHES = {"fires": "tokens it fires on", "promotes": "tokens it promotes", "label": "labels and notes"}
SHOWN = {"all": "all", "alive": "alive", "dead": "dead", "labelled": "labelled", "bookmarked": "bookmarked"}
LIST = "list "
"""In front of the name of a user's list, beside the keys of `SHOWN`."""
MATCH = "match"
"""What a search sorts by, beside the statistics."""


@dataclass(frozen=True)
class Asked:
    """What the address asks for.

    Attributes:
        by, q: a search and its text; show: which latents, or a list of the user's; stat, low, high: a range.
        sort, down: the order; page: from 1.
    """

    by: str
    q: str
    show: str
    stat: str
    low: float | None
    high: float | None
    sort: str
    down: bool
    page: int

    def params(self, **changed: Any) -> dict[str, Any]:
        """For a link; what is as it would be anyway is left out."""
        found = {**vars(self), "down": int(self.down)} | changed
        plain = {**vars(read({})), "down": 1}
        return {key: value for key, value in found.items() if value != plain[key]}


def read(params: Mapping[str, str]) -> Asked:
    """Whatever the address says; what makes no sense is as if it were not there."""
    by, stat, sort = params.get("by"), params.get("stat"), params.get("sort")
    page = params.get("page", "1")
    return Asked(
        by=by if by in SEARCHES else "fires",
        q=params.get("q", ""),
        show=params.get("show", "all"),
        stat=stat if stat in search.STATISTICS else "density",
        low=_number(params.get("low")),
        high=_number(params.get("high")),
        sort=sort if sort in (*search.STATISTICS, MATCH) else "",
        down=params.get("down", "1") != "0",
        page=int(page) if page.isascii() and page.isdigit() and len(page) < 8 else 1,
    )


def _number(said: str | None) -> float | None:
    try:
        found = float(said) if said else None
    except ValueError:
        return None
    return found if found is not None and np.isfinite(found) else None


@dataclass(frozen=True)
class Found:
    """What was asked for.

    Attributes:
        latents: in the order shown; sort: what they are ordered by.
        match: `[all latents]`, how well each matches a search; note: HTML on how the search was understood.
    """

    latents: NDArray[np.int64]
    match: NDArray[np.float64] | None
    sort: str
    note: str


def find(run: OpenRun, bundle: Bundle, asked: Asked, written: Mapping[int, Annotation]) -> Found:
    keep, match, note = np.ones(bundle.n_latents, dtype=bool), None, ""
    if asked.q.strip():
        match, note = _matched(run, bundle, asked)
        keep &= ~np.isnan(match)
    keep &= _shown(bundle, asked.show, written)
    values = search.STATISTICS[asked.stat](bundle)
    if asked.low is not None:
        keep &= values >= asked.low
    if asked.high is not None:
        keep &= values <= asked.high
    keys = {name: statistic(bundle) for name, statistic in search.STATISTICS.items() if name == asked.sort}
    keys |= {MATCH: match} if match is not None else {"density": bundle.density}
    sort = asked.sort if asked.sort in keys else next(reversed(keys))
    return Found(search.ranked(keep, keys[sort], descending=asked.down), match, sort, note)


def _shown(bundle: Bundle, show: str, written: Mapping[int, Annotation]) -> NDArray[np.bool_]:
    if show in ("alive", "dead"):
        return (bundle.columns["count"] > 0) == (show == "alive")
    if show == "labelled":
        return search.only(bundle, [latent for latent, said in written.items() if said.label])
    if show == "bookmarked":
        return search.only(bundle, [latent for latent, said in written.items() if said.bookmarked])
    if show.startswith(LIST):
        name = show.removeprefix(LIST)
        return search.only(bundle, [latent for latent, said in written.items() if name in said.lists])
    return np.ones(bundle.n_latents, dtype=bool)


def _matched(run: OpenRun, bundle: Bundle, asked: Asked) -> tuple[NDArray[np.float64], str]:
    """How well each latent matches (NaN: not at all), and how the text was understood."""
    if asked.by == "label":
        match = np.full(bundle.n_latents, np.nan)
        listed = run.annotations.search(bundle.sae_sha256, asked.q)
        for rank, latent in enumerate(latent for latent in listed if latent < bundle.n_latents):
            match[latent] = -rank
        return match, ""
    tokens = _vocabulary(bundle).find(asked.q)
    match = search.by_token(bundle, tokens.ids, "fires" if asked.by == "fires" else "promotes")
    return match, _understood(asked.q, tokens)


def _understood(q: str, tokens: search.Tokens) -> str:
    if not len(tokens.ids):
        return f"No token of the vocabulary contains {token(q)}. A word may be several tokens: try a part of it."
    names = " ".join(token(text) for text in tokens.texts)
    more = len(tokens.ids) - len(tokens.texts)
    how = {"exact": "", "case": ", apart from upper and lower case", "part": ", as a part of them"}[tokens.how]
    kinds = "token" if len(tokens.ids) == 1 else "tokens"
    return f"{len(tokens.ids):,} {kinds} matched{how}: {names}{f' and {more:,} more' if more > 0 else ''}"


@st.cache_resource(max_entries=3, show_spinner=False, hash_funcs={Bundle: lambda b: b.manifest["content_sha256"]})
def _vocabulary(bundle: Bundle) -> search.Vocabulary:
    return search.Vocabulary(bundle.vocabulary)
