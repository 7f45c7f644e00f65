"""An HTML document that needs nothing else: no script, no request, light and dark."""

from __future__ import annotations

from collections.abc import Mapping

from saelab.features.render import text

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Whatever some text might become, a browser runs no script for it and asks no machine for anything."""


def document(title: str, body: str, *styles: str) -> str:
    """A whole document.

    Args:
        title: any text; body: HTML; styles: CSS.
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{text(title, 200)}</title><style>{''.join(styles)}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def facts(found: Mapping[str, str]) -> str:
    """Names and what they are, any text."""
    rows = (f"<div><dt>{text(name)}</dt><dd><bdi>{text(value, 300)}</bdi></dd></div>" for name, value in found.items())
    return f"<dl>{''.join(rows)}</dl>"
