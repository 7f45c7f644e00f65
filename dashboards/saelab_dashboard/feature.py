"""One latent: what makes it fire, what it writes, what lies near it, and what a person makes of it."""

from __future__ import annotations

import random

import numpy as np
import streamlit as st

from saelab.errors import SaelabError
from saelab.features import Bundle, Feature, render
from saelab.features.annotations import LABEL_LIMIT, LIST_LIMIT, NOTE_LIMIT, Annotation
from saelab_dashboard import contexts, links, panels, session, states
from saelab_dashboard.session import OpenRun

LATENT = "latent"
"""The name of a latent in addresses."""


def show() -> None:
    """The page."""
    run, bundle = session.indexed()
    feature = bundle.feature(_latent(run, bundle))
    st.set_page_config(page_title=f"Latent {feature.latent} · saelab")
    annotation = run.annotations.get(bundle.sae_sha256, feature.latent)
    _head(run, bundle, feature, annotation)
    left, right = st.columns([2.1, 1], gap="large")
    with left:
        contexts.show(run, bundle, feature)
    with right:
        st.html('<span id="notes"></span>')
        _notes(run, bundle.sae_sha256, annotation)
        st.html(panels.cards(run, bundle, feature))


def _latent(run: OpenRun, bundle: Bundle) -> int:
    """The latent the address names, else the one last looked at, else the first that is alive."""
    said = st.query_params.get(LATENT)
    seen = f"latent of {run.name}"
    if said is None:
        alive = np.flatnonzero(bundle.columns["count"])
        said = str(st.session_state.get(seen, alive[0] if len(alive) else 0))
        st.query_params[LATENT] = said
    last = bundle.n_latents - 1
    if not (said.isascii() and said.isdigit() and len(said) <= 12 and int(said) <= last):
        ways = [
            links.anchor(f"latent {number}", "feature", run.name, latent=number)
            for number in sorted({0, st.session_state.get(seen, 0), last})
        ]
        everything = links.anchor("all features", "features", run.name)
        title = f"There is no latent “{render.text(said, 60)}” in this SAE"
        states.say("warning", title, f"They go from 0 to {last}: {', '.join(ways)}, {everything}.")
    st.session_state[seen] = int(said)
    return int(said)


# -- the head -----------------------------------------------------------------------------------------


def _head(run: OpenRun, bundle: Bundle, feature: Feature, annotation: Annotation) -> None:
    title, number = st.columns([4, 1], vertical_alignment="bottom")
    with title:
        st.html(_title(run, bundle, feature, annotation))
    with number:
        key = f"go to a latent of {run.name}"
        st.session_state[key] = feature.latent
        st.number_input("Go to latent", 0, bundle.n_latents - 1, key=key, on_change=_jump, args=(key,))


def _jump(key: str) -> None:
    st.query_params[LATENT] = str(st.session_state[key])


def _title(run: OpenRun, bundle: Bundle, feature: Feature, annotation: Annotation) -> str:
    star = ' <span title="bookmarked" role="img" aria-label="bookmarked">★</span>' if annotation.bookmarked else ""
    label = f": {render.text(annotation.label, 300)}" if annotation.label else ""
    facts = [
        f"{feature.density:.3%} of tokens ({feature.count:,})",
        f"max {render.number(feature.max)}",
        *([f"min {render.number(feature.min)}"] if feature.negative else []),
        f"mean {render.number(feature.mean)}",
        f"decoder norm {render.number(feature.decoder_norm)}",
    ]
    return (
        f'<div class="sl-head"><h1>Latent {feature.latent}{label}{star}</h1>{_ways(run, bundle, feature)}</div>'
        f'<div class="sl-dim">{" · ".join(facts)}</div>'
    )


def _ways(run: OpenRun, bundle: Bundle, feature: Feature) -> str:
    def way(name: str, to: int, attributes: str = "") -> str:
        return links.anchor(name, "feature", run.name, attributes=attributes, latent=to)

    here, n = feature.latent, bundle.n_latents
    found = [
        way("← previous", (here - 1) % n, 'rel="prev"'),
        way("next →", (here + 1) % n, 'rel="next"'),
        way("random", _any(bundle)),
    ]
    return f'<nav aria-label="other latents">{"".join(found)}<a class="sl-jump" href="#notes">label ↓</a></nav>'


def _any(bundle: Bundle) -> int:
    """A latent that fires, where one does."""
    alive = np.flatnonzero(bundle.columns["count"])
    return int(random.choice(alive)) if len(alive) else random.randrange(bundle.n_latents)


# -- what a person writes -----------------------------------------------------------------------------


def _notes(run: OpenRun, sae: str, old: Annotation) -> None:
    with st.form(f"notes {sae} {old.latent}"):
        label = st.text_input("Label", old.label, max_chars=LABEL_LIMIT, placeholder="what is it about?")
        note = st.text_area("Note", old.note, max_chars=NOTE_LIMIT, height=80)
        names = sorted({*run.annotations.lists(sae), *old.lists})
        lists = st.multiselect("Lists", names, old.lists, accept_new_options=True, placeholder="choose or type")
        bookmarked = st.checkbox("Bookmark", old.bookmarked)
        if st.form_submit_button("Save", type="primary"):
            new = Annotation(sae, old.latent, label.strip(), note, bookmarked, tuple(n[:LIST_LIMIT] for n in lists))
            _save(run, old, new)


def _save(run: OpenRun, old: Annotation, new: Annotation) -> None:
    """Write what was changed here, and leave alone what another window may have changed meanwhile."""
    notes, key = run.annotations, (new.sae, new.latent)
    try:
        if new.label != old.label:
            notes.set_label(*key, new.label)
        if new.note != old.note:
            notes.set_note(*key, new.note)
        if new.bookmarked != old.bookmarked:
            notes.set_bookmark(*key, new.bookmarked)
        for name in {*new.lists} - {*old.lists}:
            notes.add_to_list(*key, name)
        for name in {*old.lists} - {*new.lists}:
            notes.remove_from_list(*key, name)
    except SaelabError as error:
        states.failed(error)
    st.toast("Saved")
    st.rerun()
