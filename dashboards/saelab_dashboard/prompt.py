"""Any text through the model and the SAE: which latents are active where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from saelab.errors import SaelabError
from saelab.features import Bundle, render
from saelab.features.prompt import Trace, trace
from saelab_dashboard import charts, links, models, panels, session, states, typed
from saelab_dashboard.latents import Names
from saelab_dashboard.tables import cell, head, table

_KEY = "prompt of"
_DENSITIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_EXAMPLE = "The Eiffel Tower is in Paris, the capital of France."


@dataclass(frozen=True)
class Shown:
    """What is looked at of a prompt's code."""

    trace: Trace
    names: Names
    rows: list[int]
    """Latents of the table."""
    run: session.OpenRun


def show() -> None:
    """The page."""
    run = session.chosen()
    key = f"{_KEY} {models.trained(run)}"
    st.html("<h1>Try a prompt</h1>")
    with st.form("prompt", border=False):
        text = typed.box("prompt", "Text", _EXAMPLE, 110)
        asked = st.form_submit_button("Run", type="primary", icon=":material/play_arrow:")
    if asked:
        typed.ran("prompt", text)
        try:
            with st.spinner("Running the model over the prompt"):
                st.session_state[key] = trace(models.live(run), text)
        except SaelabError as error:
            st.session_state.pop(key, None)
            states.failed(error)
    if key not in st.session_state:
        st.caption("Latents that are active on each token appear here once the prompt has run.")
        return
    _result(run, st.session_state[key])


def _result(run: session.OpenRun, found: Trace) -> None:
    whole = found.l0
    found, scale, rows = _chosen(run.bundle, found)
    shown = Shown(found, Names(run), [peak.latent for peak in found.peaks(rows, scale=scale)], run)
    left_out = sum(found.masked)
    words = f"{len(found.tokens)} tokens, {render.number(whole)} active latents each"
    st.html(
        f'<p class="sl-dim">{words}. {left_out} left out, as in training (struck through): no latent is read there.</p>'
    )
    if not shown.rows:
        states.box("info", "No latent is active here", "None is left that is rare enough. Let denser ones in.")
        return
    _along(shown)
    st.html(f"<h2>Latents and tokens <small>the {len(shown.rows)} strongest</small></h2>{_matrix(shown)}")
    st.html(f"<h2>Token by token <small>the five strongest latents of each</small></h2>{_by_token(shown)}")


def _chosen(bundle: Bundle | None, found: Trace) -> tuple[Trace, np.ndarray | None, int]:
    """The trace without dense latents, what to divide by for the order, and how many rows to show."""
    columns = st.columns(3)
    rows = columns[0].slider("Latents shown", 5, 30, 15, key="prompt rows")
    if bundle is None:
        columns[1].caption("With a feature index, dense latents can be left out, and labels are shown.")
        return found, None, rows
    most = columns[1].select_slider(
        "Leave out latents active on more than",
        _DENSITIES,
        0.1,
        format_func=lambda share: f"{100 * share:.3g} % of tokens",
        key="prompt density",
    )
    relative = columns[2].toggle(
        "Order by share of each latent's maximum",
        help="A latent counts by its activation here over the largest it has in the index.",
        key="prompt relative",
    )
    return found.only(bundle.density <= most), bundle.largest if relative else None, rows


def _along(shown: Shown) -> None:
    """One latent's activation along the prompt."""
    asked = st.query_params.get("latent", "")
    first = int(asked) if asked.isdecimal() and int(asked) in shown.rows else shown.rows[0]
    latent = st.selectbox(
        "One latent along the prompt",
        shown.rows,
        index=shown.rows.index(first),
        format_func=shown.names.plain,
        key=f"prompt latent {shown.rows}",
    )
    values = shown.trace.along(latent)
    peak = float(np.abs(values).max())
    active = {int(i): float(values[i]) for i in np.flatnonzero(values)}
    st.html(render.highlighted(shown.trace.texts, active, scale=peak, at=int(np.abs(values).argmax())))
    said = [f"{text} {render.number(float(v))}" for text, v in zip(shown.trace.texts, values, strict=True)]
    at = int(np.abs(values).argmax())
    chart = charts.bars(
        "Activation, token by token",
        [abs(float(v)) / peak for v in values],
        ["first token", "last token"],
        said,
        summary=f"active on {len(active)} of {len(values)} tokens, strongest on “{shown.trace.texts[at]}” with "
        f"{render.number(float(values[at]))}",
        marks=[i for i, v in active.items() if v < 0],
    )
    st.html(f"{chart}<p>{links.anchor('Open this feature', 'feature', shown.run.name, latent=latent)}</p>")


def _matrix(shown: Shown) -> str:
    """Latents down, tokens across; every value as text."""
    found = shown.trace
    heads = [_token_head(found, i) for i in range(len(found.tokens))]
    rows = ([head(shown.names.described(latent), row=True), *_cells(found.along(latent))] for latent in shown.rows)
    name = "activation of latents (rows) on tokens (columns)"
    return table(name, [head("latent"), *heads], rows, kind="sl-matrix")


def _token_head(found: Trace, position: int, *, row: bool = False) -> str:
    return head(panels.token(found.texts[position]), row=row, kind="sl-masked" * found.masked[position])


def _cells(values: np.ndarray) -> list[str]:
    peak = float(np.abs(values).max()) or 1.0
    return [_value(float(value), peak) if value else cell("") for value in values]


def _value(value: float, peak: float) -> str:
    hue = "var(--sl-cold)" if value < 0 else "var(--sl-hot)"
    ground = f"background:color-mix(in srgb,{hue} {8 + 52 * abs(value) / peak:.0f}%,transparent)"
    return cell(render.number(value), number=True, style=ground)


def _by_token(shown: Shown) -> str:
    found = shown.trace
    rows = ([_token_head(found, i, row=True), cell(_strongest(shown, i))] for i in range(len(found.tokens)))
    return table(
        "strongest latents of each token", [head("token"), head("latents and their activation")], rows, kind="sl-tokens"
    )


def _strongest(shown: Shown, position: int) -> str:
    if shown.trace.masked[position]:
        return '<span class="sl-dim">left out, as in training</span>'
    top = shown.trace.top(position, 5)
    chips = [f'<span class="sl-chip">{shown.names.link(i)} {render.number(value)}</span>' for i, value in top]
    return " ".join(chips) or '<span class="sl-dim">none</span>'
