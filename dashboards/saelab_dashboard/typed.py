"""The text that a person ran last: in the address, so that it can be passed on, and there when they come back."""

from __future__ import annotations

import streamlit as st

_LINKED = 1000
"""Characters that an address bears."""


def box(page: str, label: str, example: str, height: int) -> str:
    """Where a page's text is typed. What it begins with stays as it was: another default would be another box."""
    key, begins = f"{page} text", f"{page} begins"
    if key not in st.session_state:  # the page has just been opened
        st.session_state[begins] = st.query_params.get("text") or st.session_state.get(f"{page} ran", example)
    return st.text_area(label, str(st.session_state[begins]), height=height, key=key)


def ran(page: str, text: str) -> None:
    """This is what was run."""
    st.session_state[f"{page} ran"] = text
    st.query_params.pop("text", None)
    if len(text) <= _LINKED:
        st.query_params["text"] = text
