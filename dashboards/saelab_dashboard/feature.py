"""One latent."""

from __future__ import annotations

import streamlit as st
from saelab_dashboard import session


def show() -> None:
    """The page."""
    run, bundle = session.indexed()
    st.title(f"Latent {st.query_params.get('latent')}")
