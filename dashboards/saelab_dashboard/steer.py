"""Latents held or pushed while the model writes, beside what it writes by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast, get_args

import streamlit as st

from saelab.errors import SaelabError
from saelab.features import render
from saelab.features.steer import Continuation, Intervention, Mode, Sampling, Shift, Steering, steps
from saelab_dashboard import models, panels, session, states, typed
from saelab_dashboard.latents import Names
from saelab_dashboard.tables import cell, head, meter, table

_KEY = "steering of"
_EXAMPLE = "My favourite place in the world is"
_MODES: dict[Mode, str] = {"clamp": "hold at", "add": "add"}
_MOST = 8
"""Latents that one may change at once."""
_NONE = "Choose one latent or more to change: a number, or words of a label."


@dataclass(frozen=True)
class Result:
    """What came out, and of which settings; `done` tells a run that was stopped from a complete one."""

    prompt: str
    interventions: tuple[Intervention, ...]
    sampling: Sampling
    steering: Steering
    done: bool


def show() -> None:
    """The page."""
    run = session.chosen()
    key = f"{_KEY} {models.trained(run)}"
    st.html("<h1>Steer</h1>")
    prompt = typed.box("steer", "Prompt", _EXAMPLE, 80)
    interventions = _interventions(run)
    sampling = _sampling()
    asked = st.button("Run", type="primary", icon=":material/play_arrow:", disabled=not interventions)
    if asked:
        st.session_state.pop(key, None)
        typed.ran("steer", prompt)
        try:
            _run(run, key, prompt, interventions, sampling)
        except SaelabError as error:
            states.failed(error)
    if key in st.session_state:
        _result(run, st.session_state[key])
    elif not interventions:
        st.caption(_NONE)


# -- settings -----------------------------------------------------------------------------------------


def _interventions(run: session.OpenRun) -> tuple[Intervention, ...]:
    names = Names(run)
    labelled = [names.plain(latent) for latent in names.labels]
    linked = st.query_params.get("latent", "")
    first = [names.plain(int(linked))] if linked.isdecimal() else []
    entries = st.multiselect(
        "Latents to change",
        list(dict.fromkeys([*first, *labelled])),
        first,
        accept_new_options=True,
        max_selections=_MOST,
        placeholder="a number, or words of a label",
        key=f"steer latents {run.name} {linked}",
    )
    found = dict.fromkeys(latent for entry in entries if (latent := _latent(names, entry)) is not None)
    return tuple(_intervention(run, names, latent) for latent in found)


def _latent(names: Names, entry: str) -> int | None:
    """The latent meant by a number, or by words of a label that only one has."""
    number = entry.partition(" ")[0]
    bundle = names.run.bundle
    if number.isdecimal():
        if bundle is None or int(number) < bundle.n_latents:
            return int(number)
        said = f"There is no latent {number}; they go from 0 to {bundle.n_latents - 1}"
    else:
        found = names.run.annotations.search(bundle.sae_sha256, entry) if bundle else []
        if len(found) == 1:
            return found[0]
        said = f"{len(found) or 'No'} latent{'' if len(found) == 1 else 's'} labelled “{render.text(entry, 60)}”"
        said += ": choose one by its number" if found else ""
    states.box("warning", said)
    return None


def _intervention(run: session.OpenRun, names: Names, latent: int) -> Intervention:
    """A line of widgets for one latent."""
    largest = _largest(run, latent)
    columns = st.columns([2, 1, 1, 2], vertical_alignment="center")
    columns[0].html(f"<p class='sl-line'>Latent {names.link(latent)}</p>")
    mode = columns[1].selectbox(
        f"How latent {latent} is changed",
        get_args(Mode),
        format_func=lambda one: _MODES[cast(Mode, one)],
        label_visibility="collapsed",
        key=f"steer mode {latent}",
        help="Hold at: its activation is this everywhere. Add: this much of its decoder row, whatever its activation.",
    )
    times = columns[2].number_input(
        f"Strength of latent {latent}" + (", times its maximum" if largest else ""),
        value=2.0 if largest else 10.0,
        step=0.5 if largest else 5.0,
        label_visibility="collapsed",
        key=f"steer strength {latent}",
    )
    raw = float(times) * (largest or 1.0)
    said = f"× its maximum of {render.number(largest)} = <b>{render.number(raw)}</b>" if largest else "in its own units"
    columns[3].html(f"<p class='sl-line'>{said}</p>")
    return Intervention(latent, cast(Mode, mode), raw)


def _largest(run: session.OpenRun, latent: int) -> float:
    """Its largest magnitude in the index; 0 where that is not known, or it never fires."""
    return 0.0 if run.bundle is None else float(run.bundle.largest[latent])


def _sampling() -> Sampling:
    columns = st.columns(3)
    tokens = columns[0].slider("New tokens", 5, 100, 30, key="steer tokens")
    temperature = columns[1].slider(
        "Temperature", 0.0, 2.0, 0.8, 0.1, key="steer temperature", help="0 always takes the likeliest token."
    )
    seed = columns[2].number_input("Seed", 0, 2**31 - 1, 0, key="steer seed", help="Both sides use the same.")
    return Sampling(int(tokens), float(temperature), int(seed))


# -- running ------------------------------------------------------------------------------------------


def _run(
    run: session.OpenRun, key: str, prompt: str, interventions: tuple[Intervention, ...], sampling: Sampling
) -> None:
    """Write on, token by token, in view; a click on Stop ends this run of the page, and keeps what there is."""
    live = models.live(run)
    controls, place = st.empty(), st.empty()
    with controls.container():
        st.button("Stop", icon=":material/stop:", key="steer stop")
        bar = st.progress(0.0, "Running the model")
    for number, steering in enumerate(steps(live, prompt, interventions, sampling), 1):
        st.session_state[key] = Result(prompt, interventions, sampling, steering, done=False)
        bar.progress(number / sampling.new_tokens, f"{number} of {sampling.new_tokens} tokens")
        place.html(_continuations(prompt, steering))
    st.session_state[key] = replace(st.session_state[key], done=True)  # or both texts ended before
    controls.empty()
    place.empty()


# -- what came out ------------------------------------------------------------------------------------


def _result(run: session.OpenRun, found: Result) -> None:
    stopped = "" if found.done else " Stopped before the end."
    st.html(f"<h2>Continuations</h2><p class='sl-dim'>{_said(found)}.{stopped}</p>")
    st.html(_continuations(found.prompt, found.steering))
    kl = render.number(found.steering.kl_nats)
    st.html(
        "<h2>The next token after the prompt</h2>"
        f"<p>KL(baseline ‖ steered): <b>{kl} nats</b>. Probabilities are at temperature 1.</p>"
    )
    for column, title, shifts in zip(
        st.columns(2),
        ("More likely when steered", "Less likely when steered"),
        (found.steering.risers, found.steering.fallers),
        strict=True,
    ):
        column.html(_shifts(title, shifts))


def _said(found: Result) -> str:
    done = [f"latent {one.latent} {_verb(one)} {render.number(one.strength)}" for one in found.interventions]
    sampling = found.sampling
    drawn = f"temperature {sampling.temperature:g}, seed {sampling.seed}" if sampling.temperature else "greedy"
    return f"{'; '.join(done)}; {drawn}".capitalize()


def _verb(one: Intervention) -> str:
    return {"clamp": "held at", "add": "added times"}[one.mode]


def _continuations(prompt: str, steering: Steering) -> str:
    sides = {"Baseline": steering.baseline, "Steered": steering.steered}
    same = _common(steering.baseline.text, steering.steered.text)
    drawn = "".join(_continuation(title, prompt, side, same) for title, side in sides.items())
    return f'<div class="sl-sides">{drawn}</div>'


def _common(a: str, b: str) -> int:
    """Characters before two texts part; 0 where they never do, or from the first word on."""
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return same if a != b and a[:same].strip() else 0


def _continuation(title: str, prompt: str, written: Continuation, same: int) -> str:
    ended = ' <span class="sl-dim">(end of text)</span>' if written.ended else ""
    parted = '<span class="sl-parted"><span class="sl-value"> (they part here) </span></span>' if same else ""
    parts = f"{_piece(written.text[:same])}{parted}{_piece(written.text[same:])}"
    return (
        f'<section aria-label="{title}"><h3>{title}</h3>'
        f'<p dir="auto"><span class="sl-dim">{_piece(prompt)}</span>{parts}{ended}</p></section>'
    )


def _piece(text: str) -> str:
    """A stretch of running text; the space it begins with stays a space."""
    return " " * text.startswith(" ") + render.lines(text.removeprefix(" "))


def _shifts(title: str, shifts: tuple[Shift, ...]) -> str:
    if not shifts:
        return f"<h3>{title}</h3><p class='sl-dim'>No token.</p>"
    most = max(abs(shift.change) for shift in shifts)
    heads = [head("token"), *(head(name, number=True) for name in ("before", "steered", "change")), head("")]
    rows = (
        [
            cell(panels.token(shift.text)),
            cell(_percent(shift.before), number=True),
            cell(_percent(shift.after), number=True),
            cell(f"{'+' if shift.change > 0 else '−'}{_percent(abs(shift.change))}", number=True),
            cell(meter(shift.change / most)),
        ]
        for shift in shifts
    )
    return f"<h3>{title}</h3>{table(title, heads, rows, kind='sl-tokens')}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share >= 1e-4 else "&lt; 0.01 %"
