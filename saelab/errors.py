"""The one error type that reaches a user as a readable paragraph.

Every room raises `SaelabError` for whatever its caller can mend: a bad key, an unreadable file, a
full disk. The command line prints it without a traceback and leaves with its `exit_code`.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class SaelabError(Exception):
    """Something the user can mend: says what is wrong, where, and what to do about it.

    Args:
        message: what is wrong, one sentence, naming the value found.
        where: the file, key or object it was found in (`configs/a.yaml:12: sae.k`).
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None):
        super().__init__(message)
        self.message = message
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class RunFailedError(SaelabError):
    """A run that started well and went wrong (a loss that is no longer finite): exit code 1."""

    exit_code = 1


class Interrupted(SaelabError):  # noqa: N818 (nothing went wrong)
    """A run that was asked to stop, and did, with a checkpoint: exit code 130 for SIGINT, 143 for SIGTERM.

    Args:
        step: steps done.
        by: the signal.
    """

    def __init__(self, step: int, by: signal.Signals):
        super().__init__(f"stopped at step {step} by {by.name}; the same command goes on from there")
        self.exit_code = 128 + by


class SettingError(SaelabError):
    """One setting that a room's own check refuses.

    Args:
        key: the setting, dotted, relative to the object being checked; '' for the whole of it.
    """

    def __init__(self, key: str, message: str, *, fix: str | None = None):
        super().__init__(message, where=key or None, fix=fix)
        self.key = key


def did_you_mean(wrong: str, known: Iterable[str], *, limit: int = 3) -> str:
    """A sentence that names the closest known words, and all of them where they are few."""
    known = sorted(set(known))
    close = difflib.get_close_matches(wrong, known, n=limit, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{word}'" for word in close) + "?"
    if 0 < len(known) <= 24:
        return "known: " + ", ".join(known)
    return ""


def check_least(settings: object, least: int, *keys: str) -> None:
    """Raise where one of these settings is below `least`, or is a list that is empty or holds such a number."""
    for key in keys:
        value = getattr(settings, key)
        numbers = (value,) if isinstance(value, int) else tuple(value)
        if not numbers or min(numbers) < least:
            raise SettingError(key, f"must be at least {least}, found {value}")


def check_seed(seed: int) -> None:
    """Raise where a seed does not fit every generator in use."""
    if not 0 <= seed < 2**63:
        raise SettingError("seed", f"a seed lies between 0 and 2^63 - 1, found {seed}")
