"""All latents of an SAE: a table to search, filter and sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from saelab.features import Bundle, render, search
from saelab.features.annotations import Annotation
from saelab_dashboard import links, session, states
from saelab_dashboard.panels import token
from saelab_dashboard.session import OpenRun

_ROWS = 50
_SEARCHES = {"fires": "fires on a token", "promotes": "promotes a token", "label": "label or note"}
_SHOW = {"all": "all", "alive": "alive", "dead": "dead", "labelled": "labelled", "bookmarked": "bookmarked"}
_LIST = "list "
_COLUMNS = {"latent": "Latent", "density": "Density", "max": "Max", "mean": "Mean", "min": "Min", "norm": "Norm"}
_TOKENS = ("fire_tokens", "top_tokens")
_DESCRIBED = {
    "density": "share of tokens on which it is active",
    "max": "its largest activation",
    "min": "its smallest activation",
    "mean": "of its activations, where it is active",
    "norm": "length of its decoder row",
    "match": "share of its activation on these tokens, or its largest logit of them",
}


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
        plain = {**vars(_read({})), "down": 1}
        return {key: value for key, value in found.items() if value != plain[key]}


def _read(params: Any) -> Asked:
    """Whatever the address says; what makes no sense is as if it were not there."""
    by, stat, sort = params.get("by"), params.get("stat"), params.get("sort")
    page = params.get("page", "1")
    return Asked(
        by=by if by in _SEARCHES else "fires",
        q=params.get("q", ""),
        show=params.get("show", "alive"),
        stat=stat if stat in search.STATISTICS else "density",
        low=_number(params.get("low")),
        high=_number(params.get("high")),
        sort=sort if sort in (*search.STATISTICS, "match") else "",
        down=params.get("down", "1") != "0",
        page=int(page) if page.isascii() and page.isdigit() and len(page) < 8 else 1,
    )


def _number(said: str | None) -> float | None:
    try:
        found = float(said) if said else None
    except ValueError:
        return None
    return found if found is not None and np.isfinite(found) else None


def show() -> None:
    """The page."""
    run, bundle = session.indexed()
    st.html("<h1>Features</h1>")
    asked = _read(st.query_params)
    written = run.annotations.labelled(bundle.sae_sha256)
    _controls(run, bundle, asked)
    found = _found(run, bundle, asked, written)
    if found.note:
        st.html(f'<p class="sl-dim" role="status">{found.note}</p>')
    if not len(found.latents):
        everything = links.anchor("show all latents", "features", run.name, show="all")
        states.say("info", "No latent matches", f"Search for something else, or {everything}.")
    _table(run, bundle, asked, found, written)


# -- asking -------------------------------------------------------------------------------------------


def _controls(run: OpenRun, bundle: Bundle, asked: Asked) -> None:
    lists = {f"{_LIST}{name}": f"in list: {name}" for name in run.annotations.lists(bundle.sae_sha256)}
    shows = _SHOW | lists
    q, by, which, more = st.columns([3, 1.6, 1.4, 1.2], vertical_alignment="bottom")
    q.text_input("Search", **_bound("q", asked.q), placeholder="a token, or words of a label", max_chars=200)
    by.selectbox("in what it", list(_SEARCHES), format_func=_SEARCHES.__getitem__, **_bound("by", asked.by))
    chosen = asked.show if asked.show in shows else "alive"
    which.selectbox("Latents", list(shows), format_func=shows.__getitem__, **_bound("show", chosen))
    with more.popover("Range", width="stretch"):
        names = [name for name in _COLUMNS if name != "min" or bundle.signed]
        st.selectbox("Statistic", names, format_func=_COLUMNS.__getitem__, **_bound("stat", asked.stat))
        st.number_input("at least", **_bound("low", asked.low), format="%g", step=None)
        st.number_input("at most", **_bound("high", asked.high), format="%g", step=None)


def _bound(name: str, value: Any) -> dict[str, Any]:
    """Arguments of a widget that shows what the address says, and says there what a person chooses."""
    key = f"features {name}"
    st.session_state[key] = value
    return {"key": key, "on_change": _ask, "args": (name, key)}


def _ask(name: str, key: str) -> None:
    value = st.session_state[key]
    if value in (None, ""):
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = str(value)
    for stale in ("page", *(["sort"] if name in ("q", "by") else [])):
        st.query_params.pop(stale, None)


# -- finding ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Latents in the order shown; match: `[all latents]`, how well each matches; sort: what they are ordered by;
    note: HTML on how the search was understood."""

    latents: NDArray[np.int64]
    match: NDArray[np.float64] | None
    sort: str
    note: str


def _found(run: OpenRun, bundle: Bundle, asked: Asked, written: dict[int, Annotation]) -> Found:
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
    sort = asked.sort if asked.sort and (asked.sort != "match" or match is not None) else ""
    sort = sort or ("match" if match is not None else "density")
    key = match if sort == "match" and match is not None else search.STATISTICS[sort](bundle)
    return Found(search.ranked(keep, key, descending=asked.down), match, sort, note)


def _shown(bundle: Bundle, show: str, written: dict[int, Annotation]) -> NDArray[np.bool_]:
    if show in ("alive", "dead"):
        return (bundle.columns["count"] > 0) == (show == "alive")
    if show == "labelled":
        return search.only(bundle, [latent for latent, said in written.items() if said.label])
    if show == "bookmarked":
        return search.only(bundle, [latent for latent, said in written.items() if said.bookmarked])
    if show.startswith(_LIST):
        name = show.removeprefix(_LIST)
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


# -- showing ------------------------------------------------------------------------------------------


def _table(run: OpenRun, bundle: Bundle, asked: Asked, found: Found, written: dict[int, Annotation]) -> None:
    pages = -(-len(found.latents) // _ROWS)
    page = min(max(asked.page, 1), pages)
    rows = found.latents[(page - 1) * _ROWS : page * _ROWS]
    matched = found.match is not None and asked.by != "label"
    columns = ["match"] if matched else []
    columns += [name for name in _COLUMNS if name != "latent" and (name != "min" or bundle.signed)]
    head = [_heading(run, asked, found, name) for name in ("latent", *columns)]
    head[1:1] = [f'<th scope="col">{name}</th>' for name in ("Label", "Fires on", "Promotes")]
    values = {name: search.STATISTICS[name](bundle)[rows] for name in columns if name != "match"}
    if found.match is not None:
        values["match"] = found.match[rows]
    body = "".join(
        _row(run, bundle, int(latent), {name: float(values[name][i]) for name in columns}, written.get(int(latent)))
        for i, latent in enumerate(rows)
    )
    shows = render.text(f"{asked.q} {found.sort} {asked.down} {page} {len(rows)}")
    st.html(
        f"<div data-stay>{_pager(run, asked, page, pages, len(found.latents))}</div>"
        f'<div class="sl-scroll" data-shows="{shows}" tabindex="0" role="region" aria-label="features">'
        '<table class="sl-table">'
        f"<thead><tr data-stay>{''.join(head)}</tr></thead><tbody>{body}</tbody></table></div>"
        f"{_pager(run, asked, page, pages, None)}"
    )


def _heading(run: OpenRun, asked: Asked, found: Found, name: str) -> str:
    """A link that sorts by this column, and the other way round where it is sorted by it."""
    sorted_by = name == found.sort
    down = not asked.down if sorted_by else name != "latent"
    arrow = f'<span aria-hidden="true"> {"↓" if asked.down else "↑"}</span>' if sorted_by else ""
    order = f' aria-sort="{"descending" if asked.down else "ascending"}"' if sorted_by else ""
    title = render.text(_DESCRIBED.get(name, ""))
    params = asked.params(sort=name, down=int(down), page=1)
    link = links.anchor(f"{_COLUMNS.get(name, 'Match')}{arrow}", "features", run.name, **params)
    return f'<th scope="col" class="sl-n"{order} title="{title}">{link}</th>'


def _row(run: OpenRun, bundle: Bundle, latent: int, values: dict[str, float], said: Annotation | None) -> str:
    star = '<span title="bookmarked" role="img" aria-label="bookmarked">★</span> ' if said and said.bookmarked else ""
    label = render.text(said.label, 200) if said else ""
    dead = "" if bundle.columns["count"][latent] else '<span class="sl-dim">dead</span> '
    cells = [f'<td class="sl-n">{links.anchor(str(latent), "feature", run.name, latent=latent)}</td>']
    cells += [f'<td class="sl-label">{star}{dead}{label}</td>']
    cells += [f'<td class="sl-tokens">{_tokens(bundle, bundle.columns[name][latent])}</td>' for name in _TOKENS]
    cells += [f'<td class="sl-n">{_shown_as(name, value)}</td>' for name, value in values.items()]
    return f"<tr>{''.join(cells)}</tr>"


def _shown_as(name: str, value: float) -> str:
    return f"{value:.3%}" if name == "density" else render.number(value)


def _tokens(bundle: Bundle, ids: NDArray[np.integer[Any]]) -> str:
    return " ".join(f'<bdi class="sl-token">{render.text(bundle.token(int(i)), 30)}</bdi>' for i in ids[:4] if i >= 0)


def _pager(run: OpenRun, asked: Asked, page: int, pages: int, total: int | None) -> str:
    def to(name: str, number: int) -> str:
        return links.anchor(name, "features", run.name, **asked.params(page=number))

    ways = [to("← previous", page - 1)] if page > 1 else []
    ways += [f"page {page:,} of {pages:,}"] if pages > 1 else []
    ways += [to("next →", page + 1)] if page < pages else []
    count = "" if total is None else f"<strong>{total:,} latents</strong>"
    return f'<nav class="sl-head" aria-label="pages">{count}{"".join(f"<span>{way}</span>" for way in ways)}</nav>'
