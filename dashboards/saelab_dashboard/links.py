"""Addresses of pages: every page is at `<name>?run=...`, with `&latent=...` where it is about one.

A link in HTML that a page shows (`anchor`) is an ordinary one, which can be copied or opened in a new tab; a plain
click on it is taken to `follow`, which goes there without loading the app again.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
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
    "circuits": ("Circuits", "account_tree"),
}
"""Title and icon by the name of a page's module."""

_KEY = "links"
_FIRST = next(iter(_TITLES))

_FOLLOW = """
export default function ({ setTriggerValue }) {
  const plain = (event) =>
    !(event.defaultPrevented || event.button || event.altKey || event.metaKey || event.ctrlKey || event.shiftKey);
  const click = (event) => {
    const link = event.target.closest?.("a.sl-link");
    if (!link || !plain(event)) return;
    event.preventDefault();
    const address = new URL(link.href);
    const params = Object.fromEntries(address.searchParams);
    setTriggerValue("go", { page: address.pathname.split("/").pop(), params });
    if (!link.closest("[data-stay]")) document.querySelector("[data-testid=stMain]")?.scrollTo(0, 0);
  };
  const key = (event) => {
    const way = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    if (way && plain(event) && event.target === document.body) document.querySelector(`a.sl-link[rel=${way}]`)?.click();
  };
  document.addEventListener("click", click);
  document.addEventListener("keydown", key);
  return () => {
    document.removeEventListener("click", click);
    document.removeEventListener("keydown", key);
  };
}
"""
"""Takes plain clicks on links to pages; the arrow keys follow `rel=prev` and `rel=next` where nothing has the focus."""


def pages() -> list[StreamlitPage]:
    """All pages, the first of them at the root."""
    return [_page(name) for name in _TITLES]


def _page(name: str) -> StreamlitPage:
    title, icon = _TITLES[name]
    return st.Page(_show(name), title=title, icon=f":material/{icon}:", url_path=name, default=name == _FIRST)


def _show(name: str) -> Callable[[], None]:
    """A page's modules are imported when it is first opened: some of them take a language model's libraries."""

    def show() -> None:
        importlib.import_module(f"saelab_dashboard.{name}").show()

    return show


def href(page: str, run: str | None, /, **params: Any) -> str:
    """The relative address of a page about a run, or about none; parameters that are None are left out."""
    return f"{'./' if page == _FIRST else page}?{urlencode(_params(run, params))}"


def anchor(content: str, page: str, run: str | None, /, *, attributes: str = "", **params: Any) -> str:
    """A link around `content`, which is HTML, as are `attributes`."""
    return f'<a class="sl-link" {attributes} href="{html.escape(href(page, run, **params))}">{content}</a>'


def go(page: str, run: str, /, **params: Any) -> NoReturn:
    """Leave for a page now."""
    st.switch_page(_page(page), query_params=_params(run, params))


def follow(page: StreamlitPage) -> None:
    """Go where a link was clicked; called once by the app, with the page that is open."""
    here = page.url_path or _FIRST
    if asked := _follower()(key=_KEY, height=0, on_go_change=lambda: _stay(here)).go:
        wanted = asked["page"] or _FIRST
        if wanted != here and wanted in _TITLES:
            st.switch_page(_page(wanted), query_params=asked["params"])


def _stay(here: str) -> None:
    """A link to the page that is open changes its address before it runs, and so takes no second run."""
    asked = st.session_state[_KEY].go
    if asked and (asked["page"] or _FIRST) == here:
        st.query_params.from_dict(asked["params"])


@st.cache_resource(show_spinner=False)
def _follower() -> Any:
    from streamlit.components import v2

    return v2.component("saelab_links", js=_FOLLOW)


def _params(run: str | None, params: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in {"run": run, **params}.items() if value is not None}
