"""Pieces of reports on a page: the same HTML and pictures as in the report's file, with the report's looks.

`st.html` drops pictures (SVG). These go into a component of their own, whose root keeps the report's styles from the
page and the page's from the report. As `st.html` does, it lets in nothing that could run, ask for anything or lead
elsewhere, whatever the HTML says.
"""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

TAGS = frozenset(
    {"bdi", "br", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "h3", "header", "li", "p", "small"}
    | {"summary", "table", "tbody", "td", "th", "thead", "tr", "ul"}
    | {"circle", "g", "path", "rect", "svg", "text", "title"}
)
ATTRIBUTES = frozenset(
    {"aria-hidden", "aria-label", "class", "role", "scope", "tabindex"}
    | {"cx", "cy", "d", "height", "r", "rx", "stroke-width", "text-anchor", "viewBox", "width", "x", "y"}
)

_SHOW = f"""
const tags = new Set({json.dumps(sorted(TAGS))}), attributes = new Set({json.dumps(sorted(ATTRIBUTES))});
export default function ({{ data, parentElement }}) {{
  if (parentElement.shown === data.body) return;
  parentElement.shown = data.body;
  const read = new DOMParser().parseFromString(data.body, "text/html").body;
  for (const one of read.querySelectorAll("*")) {{
    if (!tags.has(one.localName)) one.remove();
    for (const {{ name }} of [...one.attributes]) if (!attributes.has(name)) one.removeAttribute(name);
  }}
  const place = parentElement.querySelector("main") ?? parentElement.appendChild(document.createElement("main"));
  place.replaceChildren(...read.childNodes);
}}
"""
_STYLE = "main { color: var(--ink); } main > :first-child { margin-top: 0; } main > :last-child { margin-bottom: 0; }"
"""The page itself keeps pieces apart."""


def show(body: str, key: str) -> None:
    """Show HTML of `saelab.circuits.report`; `key` is the piece's own on its page."""
    _component()(data={"body": body}, key=key)


@st.cache_resource(show_spinner=False)
def _component() -> Any:
    from streamlit.components import v2

    from saelab.circuits.report import style

    return v2.component("saelab_pieces", css=f"{style()}{_STYLE}", js=_SHOW)
