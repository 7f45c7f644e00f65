"""Numbers and names as they are written on the page. Not HTML: whoever writes them there escapes them."""

from __future__ import annotations

import math

DASH = "–"
_TITLES = {
    "fvu": "FVU",
    "l0": "L0",
    "ce_score": "CE score",
    "delta_ce_nats": "Added loss",
    "dead_frac": "Dead latents",
}
"""Metrics that are known by a name of their own; others are called what they are called."""
_SHORT = {
    word.lower(): word for word in ("FVU", "L0", "CE", "KL", "AUC", "F1", "MSE", "NMSE", "TPP", "SCR", "IOI", "SAE")
}
_UNITS = {"_nats": "nats", "_frac": "%"}
"""Of metrics, by how their names end."""


def said(value: float | None, digits: int = 4) -> str:
    """Significant digits; whole numbers whole; a dash for what is not a number."""
    if value is None or not math.isfinite(value):
        return DASH
    if abs(value) >= 10 ** (digits - 1) or value == int(value):
        return (f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.{digits}g}").replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def in_unit(metric: str, value: float, digits: int = 4) -> tuple[str, str]:
    """A metric's value, and the unit that its name says: nats, or percent of a share."""
    unit = next((unit for end, unit in _UNITS.items() if metric.endswith(end)), "")
    return said(100 * value if unit == "%" else value, digits), unit


def measured(metric: str, value: float | None, digits: int = 4) -> str:
    """Both as one text; a dash where there is no value."""
    return DASH if value is None else " ".join(in_unit(metric, value, digits)).strip()


def between(metric: str, ends: tuple[float, float] | None, digits: int = 3) -> str:
    """An interval, in the unit of its metric; empty where there is none."""
    if ends is None:
        return ""
    low, _ = in_unit(metric, ends[0], digits)
    return f"{low} to {measured(metric, ends[1], digits)}"


def title(name: str) -> str:
    """A metric or an evaluator as a heading."""
    plain = " ".join(_SHORT.get(word, word) for word in name.replace("_", " ").split())
    return _TITLES.get(name, plain[:1].upper() + plain[1:])


def count(number: int, what: str) -> str:
    """`1 latent`, `2 latents`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """A large number, shortly: `1.74 M`."""
    for start, sign in ((1e9, "G"), (1e6, "M")):
        if number >= start:
            return f"{number / start:.3g} {sign}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """`76 s`, `3 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
