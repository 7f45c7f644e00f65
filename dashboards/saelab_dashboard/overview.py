"""What an SAE is, how good it is, and its latents at a glance."""

from __future__ import annotations

import streamlit as st
from saelab_dashboard import links, session

from saelab.features import render


def show() -> None:
    """The page."""
    run = session.chosen()
    st.title("Overview")
    st.html(f"<p>{links.anchor(render.text('latent 3'), 'feature', run.name, latent=3)}</p>")
