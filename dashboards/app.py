"""The feature browser: `saelab browse` runs this file. Its arguments are runs, or directories that hold runs."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from saelab_dashboard import links, sidebar

from saelab.features import render

st.set_page_config(page_title="saelab", page_icon=str(Path(__file__).with_name("icon.svg")), layout="wide")
page = st.navigation(links.pages())
st.html(f"<style>{render.STYLE}{sidebar.STYLE}</style>")
links.follow()
sidebar.show()
page.run()
