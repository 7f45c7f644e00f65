"""Two runs side by side: what was measured of them, and which of their latents are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import streamlit as st

from saelab.errors import SaelabError
from saelab.evals.records import RunRecord
from saelab.features import render
from saelab.features.matching import Match, Matching, match
from saelab.training.run_directory import RunDirectory
from saelab_dashboard import charts, models, session, states
from saelab_dashboard.latents import Names
from saelab_dashboard.session import OpenRun
from saelab_dashboard.tables import cell, head, table

_KEY = "matching"
_PAGE = 25
_BINS = 20
_ALONE = 25
"""Unmatched latents listed on each side."""

_METRICS = {
    "FVU": ("fvu", ".4f"),
    "L0": ("l0", ".1f"),
    "CE score (zero ablation)": ("ce_score", ".4f"),
    "CE score (mean ablation)": ("ce_score_mean", ".4f"),
    "added loss, nats": ("delta_ce_nats", ".4f"),
    "KL, nats": ("kl_nats", ".4f"),
    "dead latents": ("dead_frac", ".2%"),
    "dense latents": ("dense_frac", ".2%"),
}


def show() -> None:
    """The page."""
    left = session.chosen()
    models.trained(left)
    st.html("<h1>Compare</h1>")
    right = _other(left)
    st.html(_table(left, right))
    _warn_of_places(left, right)
    key = f"{models.trained(left)} {models.trained(right)}"
    if st.button("Match latents", type="primary", icon=":material/compare_arrows:"):
        try:
            st.session_state[_KEY] = (key, _match(left, right))
        except SaelabError as error:
            st.session_state.pop(_KEY, None)
            states.failed(error)
    known, matching = st.session_state.get(_KEY, (None, None))
    if known != key:
        st.caption("Matching compares every decoder row of one SAE with every row of the other, by cosine.")
        return
    _result(left, right, matching)


def _other(left: OpenRun) -> OpenRun:
    """The run to compare with, from the address where it names one."""
    served = session.served().items()
    names = [name for name, path in served if name != left.name and RunDirectory(path).finished]
    if not names:
        states.say(
            "info", "There is nothing to compare with", "Only one run here has an SAE. Serve a directory with more."
        )
    asked = st.query_params.get("other")
    if asked is not None and asked not in names:
        states.box("warning", f"There is no other trained run “{render.text(asked, 200)}” here")
    name = st.selectbox("Compare with", names, index=names.index(asked) if asked in names else 0)
    st.query_params["other"] = name
    return session.open_run(name)


# -- metrics ------------------------------------------------------------------------------------------


def _table(left: OpenRun, right: OpenRun) -> str:
    sides = [(run.record, run.provenance) for run in (left, right)]
    found = {title: [say(*side) for side in sides] for title, say in _rows().items()}
    rows = (
        [head(title, row=True), *(cell(render.text(said)) for said in both)]
        for title, both in found.items()
        if any(said != "–" for said in both)
    )
    heads = [head(""), *(head(render.text(run.name)) for run in (left, right))]
    provisional = any(not record.metrics and record.heldout for record, _ in sides)
    note = '<p class="sl-dim">~ measured on the few held-out tokens that training looks at</p>' if provisional else ""
    return table("both runs", heads, rows, kind="sl-compare") + note


Say = Callable[[RunRecord, Any], str]


def _rows() -> dict[str, Say]:
    facts: dict[str, Say] = {
        "variant": lambda record, config: str(record.kind or "–"),
        "settings": lambda record, config: _settings(record),
        "model": lambda record, config: str(_came(config, "model").get("name", "–")),
        "reads": lambda record, config: _hook(config, "hook"),
        "reconstructs": lambda record, config: _hook(config, "target_hook"),
        "trained on": lambda record, config: f"{record.tokens:,} tokens" if record.tokens else "–",
    }
    return facts | {title: _metric(name, form) for title, (name, form) in _METRICS.items()}


def _metric(name: str, form: str) -> Say:
    def say(record: RunRecord, config: Any) -> str:
        value = record.value(name)
        return "–" if value is None else f"{'' if name in record.metrics else '~'}{value:{form}}"

    return say


def _settings(record: RunRecord) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.settings.items() if value is not None) or "–"


def _came(config: Any, part: str) -> dict[str, Any]:
    found = (config.get("provenance") or {}).get(part)
    return found if isinstance(found, dict) else {}


def _hook(config: Any, name: str) -> str:
    return str((config.get("provenance") or {}).get(name) or "–")


def _warn_of_places(left: OpenRun, right: OpenRun) -> None:
    """Directions of two places in a model, or of two models, have nothing to do with each other."""
    places = [(_came(run.provenance, "model").get("content"), _writes(run)) for run in (left, right)]
    if places[0] != places[1]:
        states.box(
            "warning",
            "These SAEs are of different places",
            "Their models or hooks differ: where directions agree, that may mean nothing.",
        )


def _writes(run: OpenRun) -> str:
    target = _hook(run.provenance, "target_hook")
    return _hook(run.provenance, "hook") if target == "–" else target


# -- latents ------------------------------------------------------------------------------------------


def _match(left: OpenRun, right: OpenRun) -> Matching:
    bar = st.progress(0.0, "Comparing decoder rows")
    rows = [models.sae(run).W_dec for run in (left, right)]
    found = match(
        *rows, report=lambda done, total: bar.progress(done / total, f"{done:,} of {total:,} latents") and None
    )
    bar.empty()
    return found


def _result(left: OpenRun, right: OpenRun, found: Matching) -> None:
    threshold = st.slider("Latents match from a cosine of", 0.0, 1.0, 0.7, 0.05)
    mutual, (alone_left, alone_right) = found.mutual(threshold), found.unmatched(threshold)
    totals = (len(found.right_of), len(found.left_of))
    tiles = {
        "matched pairs": (f"{len(mutual):,}", "each the other's nearest"),
        f"only in {left.name}": (f"{len(alone_left):,}", f"of {totals[0]:,}"),
        f"only in {right.name}": (f"{len(alone_right):,}", f"of {totals[1]:,}"),
        "median best cosine": (render.number(float(np.median(found.right_cosine))), f"of {left.name}"),
    }
    drawn = "".join(
        f"<div><dt>{render.text(term)}</dt><dd>{said}<small>{render.text(more)}</small></dd></div>"
        for term, (said, more) in tiles.items()
    )
    st.html(f'<dl class="sl-tiles">{drawn}</dl>')
    columns = st.columns(2)
    for column, run, cosines in zip(columns, (left, right), (found.right_cosine, found.left_cosine), strict=True):
        column.html(_distribution(f"Best cosine of each latent of {run.name}", cosines))
    _pairs(left, right, mutual)
    st.html("<h2>Unmatched latents <small>the loneliest first</small></h2>")
    alone = ((left, alone_left, found.right_cosine), (right, alone_right, found.left_cosine))
    for column, (run, latents, cosines) in zip(st.columns(2), alone, strict=True):
        column.html(_alone(run, latents.tolist(), cosines))


def _distribution(title: str, cosines: np.ndarray) -> str:
    """How many latents have a neighbour how near; cosines below 0 count as 0."""
    counts = np.histogram(cosines.clip(0, 1), bins=_BINS, range=(0, 1))[0].tolist()
    said = [f"{i / _BINS:.2f} to {(i + 1) / _BINS:.2f}: {count:,} latents" for i, count in enumerate(counts)]
    middle = f"half of {len(cosines):,} latents are above {float(np.median(cosines)):.2f}"
    return charts.bars(title, [count / max(counts) for count in counts], ["0", "0.5", "1"], said, summary=middle)


def _pairs(left: OpenRun, right: OpenRun, pairs: list[Match]) -> None:
    st.html(f"<h2>Matched latents <small>{len(pairs):,} pairs, each the other's nearest</small></h2>")
    if not pairs:
        states.box("info", "No pair is as near as that", "Choose a lower cosine.")
        return
    columns = st.columns(2)
    farthest = columns[0].toggle("The farthest first")
    pages = -(-len(pairs) // _PAGE)
    page = columns[1].number_input(f"Page of {pages}", 1, pages, 1) if pages > 1 else 1
    shown = (pairs[::-1] if farthest else pairs)[(page - 1) * _PAGE : page * _PAGE]
    names = Names(left), Names(right)
    heads = [left.name, "fires on", right.name, "fires on"]
    rows = (
        [
            cell(f"{pair.cosine:.3f}", number=True),
            *(cell(names[0].link(pair.left)), cell(names[0].fires_on(pair.left))),
            *(cell(names[1].link(pair.right)), cell(names[1].fires_on(pair.right))),
        ]
        for pair in shown
    )
    st.html(table("matched latents", [head("cosine", number=True), *(head(render.text(h)) for h in heads)], rows))


def _alone(run: OpenRun, latents: list[int], cosines: np.ndarray) -> str:
    names = Names(run)
    title = f"Only in {run.name}"
    if not latents:
        return f"<h3>{render.text(title)}</h3><p class='sl-dim'>None.</p>"
    rows = (
        [cell(names.link(i)), cell(f"{cosines[i]:.3f}", number=True), cell(names.fires_on(i))] for i in latents[:_ALONE]
    )
    more = f'<p class="sl-dim">and {len(latents) - _ALONE:,} more</p>' if len(latents) > _ALONE else ""
    heads = [head("latent"), head("best cosine", number=True), head("fires on")]
    return f"<h3>{render.text(title)}</h3>{table(title, heads, rows)}{more}"
