"""Text from models and people as HTML: escaped, with nothing invisible in it, and highlighted by activation.

Everything here returns HTML that holds no markup but its own. `STYLE` belongs once on a page that shows it; it takes
the page's text colour and works on light and dark ground.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Mapping, Sequence

TEXT_LIMIT = 10_000
_TOKEN_LIMIT = 200
_SPACES = {" ": "·", "\u00a0": "⍽"}
_CONTROLS = {"\n": "↵", "\t": "⇥", "\x7f": "␡"} | {chr(i): chr(0x2400 + i) for i in range(32) if i not in (9, 10)}
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}

STYLE = """
.sl-context { margin: 0; position: relative; line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere; }
.sl-context mark { color: inherit; border-radius: 3px; padding: 1px 0; border-bottom: 2px solid var(--sl-hue);
  background: color-mix(in srgb, var(--sl-hue) var(--sl-s), transparent); --sl-hue: #f97316; }
.sl-context mark.sl-negative { --sl-hue: #3b82f6; border-bottom-style: dashed; }
.sl-context mark.sl-at { outline: 2px solid var(--sl-hue); font-weight: 600; }
.sl-value { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); user-select: none; }
.sl-cut { opacity: .6; }
"""


def text(s: str, limit: int = TEXT_LIMIT) -> str:
    """One line of any text as HTML: controls, bidi marks, line ends, tabs and leading spaces become symbols."""
    body = s.lstrip("".join(_SPACES))
    lead = "".join(_SPACES[c] for c in s[: min(len(s) - len(body), limit)])
    return lead + _escaped(body, limit - len(lead))


def lines(s: str, limit: int = TEXT_LIMIT) -> str:
    """`text` that keeps its line ends: a note."""
    return "<br>".join(text(line) for line in s[:limit].splitlines()) + _more(s, limit)


def number(value: float) -> str:
    """Three significant digits; a dash for what is not a number."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}".replace("-", "−")


def highlighted(
    tokens: Sequence[str],
    values: Mapping[int, float],
    *,
    scale: float,
    at: int | None = None,
    around: int | None = None,
) -> str:
    """A context as a paragraph, every active token marked by colour and by its value as text.

    Args:
        tokens: their texts; values: activation by position.
        scale: the absolute value that gets the full colour; below 0 is another hue, a dashed line and a sign.
        at: the position to outline; around: with `at`, only so many tokens on either side of it.
    """
    first, end = 0, len(tokens)
    if at is not None and around is not None:
        first, end = max(at - around, 0), min(at + around + 1, end)
    parts = (_token(tokens[i], values.get(i, 0.0), scale, i == at) for i in range(first, end))
    before = '<span class="sl-cut">… </span>' if first > 0 else ""
    after = '<span class="sl-cut"> …</span>' if end < len(tokens) else ""
    return f'<p class="sl-context" dir="auto">{before}{"".join(parts)}{after}</p>'


def _token(token: str, value: float, scale: float, at: bool) -> str:
    body = _escaped(token, _TOKEN_LIMIT)
    if value == 0 or not math.isfinite(value):
        return body
    share = min(abs(value) / scale, 1.0) if scale > 0 else 1.0
    names = [name for name, wanted in (("sl-negative", value < 0), ("sl-at", at)) if wanted]
    kind = f' class="{" ".join(names)}"' if names else ""
    sign = '<span aria-hidden="true">−</span>' if value < 0 else ""
    shown = number(value)
    return (
        f'<mark{kind} style="--sl-s:{5 + 60 * share:.0f}%" title="{shown}">{sign}{body}'
        f'<span class="sl-value"> ({shown}) </span></mark>'
    )


def _escaped(s: str, limit: int) -> str:
    return html.escape("".join(map(_visible, s[:limit]))) + _more(s, limit)


def _more(s: str, limit: int) -> str:
    return f"… ({len(s):,} characters)" if len(s) > limit else ""


def _visible(character: str) -> str:
    if character in _CONTROLS:
        return _CONTROLS[character]
    return f"⟨U+{ord(character):04X}⟩" if unicodedata.category(character) in _INVISIBLE else character
