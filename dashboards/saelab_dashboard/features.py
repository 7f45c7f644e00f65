"""All latents of an SAE: a table to search, filter and sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from saelab.features import Bundle, render, search
from saelab.features.annotations import Annotation
from saelab_dashboard import links, panels, query, session, states
from saelab_dashboard.query import Asked, Found
from saelab_dashboard.session import OpenRun

_ROWS = 50
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


def show() -> None:
    """The page."""
    run, bundle = session.indexed()
    st.html("<h1>Features</h1>")
    asked = query.read(st.query_params)
    written = run.annotations.labelled(bundle.sae_sha256)
    _controls(run, bundle, asked)
    found = query.find(run, bundle, asked, written)
    if found.note:
        st.html(f'<p class="sl-dim" role="status">{found.note}</p>')
    if not len(found.latents):
        everything = links.anchor("show all latents", "features", run.name)
        states.say("info", "No latent matches", f"Search for something else, or {everything}.")
    _table(run, bundle, asked, found, written)


# -- asking -------------------------------------------------------------------------------------------


def _controls(run: OpenRun, bundle: Bundle, asked: Asked) -> None:
    lists = {f"{query.LIST}{name}": f"in list: {name}" for name in run.annotations.lists(bundle.sae_sha256)}
    shows = query.SHOWN | lists
    q, by, which, more = st.columns([3, 1.6, 1.4, 1.2], vertical_alignment="bottom")
    q.text_input("Search", **_bound("q", asked.q), placeholder="a token, or words of a label", max_chars=200)
    by.selectbox("Where", list(query.SEARCHES), format_func=query.SEARCHES.__getitem__, **_bound("by", asked.by))
    chosen = asked.show if asked.show in shows else "all"
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
    for stale in ("page", *(("sort", "down") if name in ("q", "by") else ())):
        st.query_params.pop(stale, None)


# -- showing ------------------------------------------------------------------------------------------


def _table(run: OpenRun, bundle: Bundle, asked: Asked, found: Found, written: dict[int, Annotation]) -> None:
    pages = -(-len(found.latents) // _ROWS)
    page = min(max(asked.page, 1), pages)
    rows = found.latents[(page - 1) * _ROWS : page * _ROWS]
    matched = found.match is not None and asked.by != "label"
    columns = [query.MATCH] if matched else []
    columns += [name for name in _COLUMNS if name != "latent" and (name != "min" or bundle.signed)]
    head = [_heading(run, asked, found, name) for name in ("latent", *columns)]
    head[1:1] = [f'<th scope="col">{name}</th>' for name in ("Label", "Fires on", "Promotes")]
    values = {name: search.STATISTICS[name](bundle)[rows] for name in columns if name != query.MATCH}
    if found.match is not None:
        values[query.MATCH] = found.match[rows]
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
    return " ".join(panels.token(bundle.token(int(i)), 30) for i in ids[:4] if i >= 0)


def _pager(run: OpenRun, asked: Asked, page: int, pages: int, total: int | None) -> str:
    def to(name: str, number: int) -> str:
        return links.anchor(name, "features", run.name, **asked.params(page=number))

    ways = [to("← previous", page - 1)] if page > 1 else []
    ways += [f"page {page:,} of {pages:,}"] if pages > 1 else []
    ways += [to("next →", page + 1)] if page < pages else []
    count = "" if total is None else f"<strong>{total:,} {'latent' if total == 1 else 'latents'}</strong>"
    return f'<nav class="sl-head" aria-label="pages">{count}{"".join(f"<span>{way}</span>" for way in ways)}</nav>'
