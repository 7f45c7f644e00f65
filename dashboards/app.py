"""The feature browser: `saelab browse` runs this file. Its arguments are runs, or directories that hold runs."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from saelab_dashboard import links, sidebar, states

from saelab.errors import SaelabError
from saelab.features import render

_HERE = Path(__file__).parent

st.set_page_config(page_title="saelab", page_icon=str(_HERE / "icon.svg"), layout="wide")
page = st.navigation(links.pages())
st.html(f"<style>{render.STYLE}{(_HERE / 'style.css').read_text(encoding='utf-8')}</style>")
links.follow(page)
sidebar.show()
try:
    page.run()
except SaelabError as error:
    states.failed(error)
