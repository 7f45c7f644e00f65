"""Beside every page: which run is looked at, and where its SAE comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from saelab.features import render
from saelab_dashboard import session


def show() -> None:
    """The chooser, and the provenance of the run that is chosen; a narrow window hides it, and has it in one line."""
    runs, name = session.served(), session.asked()
    known = name if name in runs else None
    if not runs:
        return
    with st.sidebar:
        st.session_state["chooser"] = known
        st.selectbox("Run", list(runs), key="chooser", on_change=_choose, placeholder="choose a run")
    if known is None:
        return
    found = {term: render.text(said) for term, said in facts(session.open_run(known)).items()}
    rows = "".join(f"<dt>{term}</dt><dd>{said}</dd>" for term, said in found.items())
    st.sidebar.html(f'<dl class="sl-facts" aria-label="where this SAE comes from">{rows}</dl>')
    st.html(f'<p class="sl-where" aria-hidden="true">{" · ".join([render.text(known), *found.values()])}</p>')


def facts(run: session.OpenRun) -> dict[str, str]:
    """Where a run's SAE comes from, in words: only what its files say."""
    config, record = run.provenance, run.record
    came: Mapping[str, Any] = config.get("provenance") or {}
    latents = record.settings.get("n_latents")
    sizes = f", {latents:,} latents" if isinstance(latents, int) else ""
    model, data, tokens = came.get("model"), came.get("data"), came.get("trained_tokens") or record.tokens
    sha256 = run.bundle.sae_sha256 if run.bundle else ""
    found = {
        "SAE": f"{record.kind}{sizes}" if record.kind else "",
        "state": "" if run.directory.finished else record.standing,
        "model": str(model.get("name", "")) if isinstance(model, dict) else "",
        "hook": str(came.get("hook", "")),
        "data": _data(data) if isinstance(data, dict) else "",
        "trained on": f"{tokens:,} tokens" if isinstance(tokens, int) else "",
        "indexed": f"{run.bundle.n_tokens:,} tokens" if run.bundle else "",
        "sha256": sha256[:12],
    }
    return {term: said for term, said in found.items() if said}


def _data(data: Mapping[str, Any]) -> str:
    """What names the text: a dataset, or files."""
    files = data.get("files")
    return str(data.get("dataset") or data.get("name") or (", ".join(files) if isinstance(files, dict) else ""))


def _choose() -> None:
    if st.session_state["chooser"]:
        session.choose(st.session_state["chooser"])
