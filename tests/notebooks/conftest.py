"""The short form: everything is small, and lies in a directory that pytest removes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set before the kernel is started, which inherits it."""
    place = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SAELAB_NOTEBOOKS": "short", "TMPDIR": str(place), "SAELAB_HOME": str(place)}.items():
            patch.setenv(name, value)
        yield place
