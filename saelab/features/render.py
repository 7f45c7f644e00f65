"""Text from models and people as HTML: escaped, with nothing invisible in it, and highlighted by activation.

Everything here but `shown` returns HTML that holds no markup but its own. `STYLE` belongs once on a page that shows
it; it takes the page's text colour and works on light and dark ground.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

TEXT_LIMIT = 10_000
_TOKEN_LIMIT = 200
_SYMBOLS = {"\n": "↵", "\t": "⇥"}
"""What most fonts have; the pictures of other controls are in few, so those are named by number."""
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}

STYLE = """
.sl-context { margin: 0; position: relative; line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere; }
.sl-context mark { color: inherit; border-radius: 3px; padding: 1px 0; border-bottom: 2px solid var(--sl-hue);
  background: color-mix(in srgb, var(--sl-hue) var(--sl-s), transparent); --sl-hue: #f97316; }
.sl-context mark.sl-negative { --sl-hue: #3b82f6; border-bottom-style: dashed; }
.sl-context mark.sl-at { outline: 2px solid var(--sl-hue); font-weight: 600; }
.sl-value { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); user-select: none; }
.sl-cut { opacity: .6; }
"""


def shown(s: str, limit: int = TEXT_LIMIT) -> str:
    """One line of any text: controls, bidi marks, line ends, odd and leading spaces become symbols. Not HTML."""
    body = s[:limit].lstrip(" ")
    lead = "·" * (min(len(s), limit) - len(body))
    return lead + "".join(map(_visible, body)) + _more(s, limit)


def text(s: str, limit: int = TEXT_LIMIT) -> str:
    """`shown` as HTML."""
    return html.escape(shown(s, limit))


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
    body = _word(token)
    if value == 0 or not math.isfinite(value):
        return body
    word = body.lstrip(" ") or body  # a line may end before a marked word, not inside the mark
    share = min(abs(value) / scale, 1.0) if scale > 0 else 1.0
    names = [name for name, wanted in (("sl-negative", value < 0), ("sl-at", at)) if wanted]
    kind = f' class="{" ".join(names)}"' if names else ""
    sign = '<span aria-hidden="true">−</span>' if value < 0 else ""
    said = number(value)
    return (
        f'{body[: len(body) - len(word)]}<mark{kind} style="--sl-s:{5 + 60 * share:.0f}%" title="{said}">{sign}{word}'
        f'<span class="sl-value"> ({said}) </span></mark>'
    )


@lru_cache(2**16)
def _word(token: str) -> str:
    return html.escape("".join(map(_visible, token[:_TOKEN_LIMIT]))) + _more(token, _TOKEN_LIMIT)


def _more(s: str, limit: int) -> str:
    return f"… ({len(s):,} characters)" if len(s) > limit else ""


def _visible(character: str) -> str:
    if character == " " or unicodedata.category(character) not in _INVISIBLE:
        return character
    return _SYMBOLS.get(character, f"⟨U+{ord(character):04X}⟩")
