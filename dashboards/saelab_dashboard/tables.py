"""Tables as HTML that scroll sideways where there is no room. Cells are HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saelab.features import render


def table(name: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table.

    Args:
        name: what a screen reader calls it, text.
        heads, rows: made by `head` and `cell`.
        kind: a further class.
    """
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="sl-scroll" tabindex="0" role="region" aria-label="{render.text(name)}">'
        f'<table class="sl-table {kind}"><thead><tr>{"".join(heads)}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def head(content: str, *, number: bool = False, row: bool = False, kind: str = "") -> str:
    """Of a column, or with `row` of a row."""
    return f'<th scope="{"row" if row else "col"}" class="{"sl-n " * number}{kind}">{content}</th>'


def cell(content: str, *, number: bool = False, style: str = "") -> str:
    """A number is set to the right."""
    look = f' style="{style}"' if style else ""
    return f"<td{' class=sl-n' * number}{look}>{content}</td>"


def meter(share: float) -> str:
    """A bar for a share in [-1, 1], beside its value as text."""
    kind = " sl-negative" if share < 0 else ""
    return f'<span class="sl-meter{kind}" aria-hidden="true" style="width:{4 * min(abs(share), 1):.2f}rem"></span>'
