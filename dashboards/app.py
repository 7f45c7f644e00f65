"""The feature browser: `saelab browse` runs this file. Its arguments are runs, or directories that hold runs."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import streamlit as st
from saelab_dashboard import links, sidebar, states

from saelab.errors import SaelabError
from saelab.features import render

_HERE = Path(__file__).parent


@st.cache_resource(show_spinner=False)
def settle(n_modules: int) -> None:
    """Streamlit collects garbage after every run, over all objects there are: leave out those that stay."""
    gc.freeze()


# An icon of its own, set before there are pages: theirs would be fetched from elsewhere.
st.set_page_config(page_title="saelab", page_icon=str(_HERE / "icon.svg"), layout="wide")
page = st.navigation(links.pages())
st.set_page_config(page_title=f"{page.title} · saelab")
st.html(f"<style>{render.STYLE}{(_HERE / 'style.css').read_text(encoding='utf-8')}</style>")
links.follow(page)
settle(len(sys.modules))
try:
    sidebar.show()
    page.run()
except SaelabError as error:
    states.failed(error)
