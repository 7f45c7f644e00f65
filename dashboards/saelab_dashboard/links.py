"""Addresses of pages: every page is at `<name>?run=...`, with `&latent=...` where it is about one.

A link in HTML that a page shows (`anchor`) is an ordinary one, which can be copied or opened in a new tab; a plain click
on it is taken to `follow`, which goes there without loading the app again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import streamlit as st
from streamlit.navigation.page import StreamlitPage

_TITLES = {
    "overview": ("Overview", "dashboard"),
    "features": ("Features", "table_rows"),
    "feature": ("Feature", "center_focus_strong"),
    "prompt": ("Try a prompt", "edit_note"),
    "steer": ("Steer", "tune"),
    "compare": ("Compare", "compare_arrows"),
    "runs": ("Runs", "show_chart"),
}
"""Title and icon by the name of a page's module."""

_FOLLOW = """
export default function ({ setTriggerValue }) {
  const go = (event) => {
    const link = event.target.closest?.("a.sl-link");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    const address = new URL(link.href);
    setTriggerValue("go", { page: address.pathname.split("/").pop(), params: Object.fromEntries(address.searchParams) });
  };
  document.addEventListener("click", go);
  return () => document.removeEventListener("click", go);
}
"""


def pages() -> list[StreamlitPage]:
    """All pages, the first of them at the root."""
    return [_page(name) for name in _TITLES if importlib.util.find_spec(f"saelab_dashboard.{name}")]


def _page(name: str) -> StreamlitPage:
    title, icon = _TITLES[name]
    first = name == next(iter(_TITLES))
    return st.Page(_show(name), title=title, icon=f":material/{icon}:", url_path=name, default=first)


def _show(name: str) -> Callable[[], None]:
    """A page's modules are imported when it is first opened: some of them take a language model's libraries."""

    def show() -> None:
        importlib.import_module(f"saelab_dashboard.{name}").show()

    return show


def href(page: str, run: str, **params: Any) -> str:
    """The relative address of a page about a run; parameters that are None are left out."""
    found = {"run": run} | {key: str(value) for key, value in params.items() if value is not None}
    return f"{page}?{urlencode(found)}"


def anchor(content: str, page: str, run: str, **params: Any) -> str:
    """A link around `content`, which is HTML."""
    return f'<a class="sl-link" href="{href(page, run, **params).replace("&", "&amp;")}">{content}</a>'


def go(page: str, run: str, **params: Any) -> None:
    """Leave for a page now."""
    found = {"run": run} | {key: str(value) for key, value in params.items() if value is not None}
    st.switch_page(_page(page), query_params=found)


@st.cache_resource
def _follower() -> Any:
    return st.components.v2.component("saelab_links", js=_FOLLOW)


def follow() -> None:
    """Go where a link was clicked; called once by the app, before the page."""
    asked = _follower()(key="links", height=0, on_go_change=lambda: None).go
    if asked and asked["page"] in (*_TITLES, ""):
        st.switch_page(_page(asked["page"] or next(iter(_TITLES))), query_params=asked["params"])
