"""Lists of words that begin again: the texts of the induction task."""

from __future__ import annotations

_AGAIN = " {again0} {again1} {again2}"

REPEATS = (
    (
        "Words: {said0} {said1} {said2} {answer} {said3} {said4} {said5}" + _AGAIN,
        "Please repeat this: {said3} {said0} {said1} {said2} {answer} {said4} {said5}" + _AGAIN,
        "Now read {said3} {said4} {said0} {said1} {said2} {answer} {said5}" + _AGAIN,
    ),
    (
        "The list is {said0} {said1} {said2} {answer} {said3} {said4}" + _AGAIN,
        "She wrote down: {said3} {said4} {said5} {said0} {said1} {said2} {answer}" + _AGAIN,
    ),
)
