"""`saelab browse`: the feature browser, served to this machine alone."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import saelab
from saelab.errors import SaelabError

_SETTINGS = {
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "theme.light.primaryColor": "#c2410c",
    "theme.dark.primaryColor": "#f97316",
}
"""Nothing is asked of, or told to, any other machine; files are not watched, for they do not change."""


def app() -> Path:
    """Inside the package where it was installed from a wheel; beside it in a checkout."""
    package = Path(saelab.__file__).parent
    inside = package / "dashboards" / "app.py"
    return inside if inside.is_file() else package.parent / "dashboards" / "app.py"


def command(roots: Sequence[Path], port: int | None, host: str, opens: bool) -> list[str]:
    """What runs the app.

    Raises:
        SaelabError: Streamlit is not installed, or a root is not there.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise SaelabError("the browser's libraries are not installed", fix="pip install 'saelab[browser]'")
    for root in roots:
        if not root.is_dir():
            raise SaelabError("this directory does not exist", where=str(root), fix="name runs, or what holds runs")
    settings = _SETTINGS | {"server.address": host, "server.headless": str(not opens).lower()}
    if port is not None:
        settings["server.port"] = str(port)
    flags = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "streamlit", "run", str(app()), *flags, "--", *map(str, roots)]


def browse(roots: Sequence[Path], port: int | None, host: str, opens: bool) -> NoReturn:
    """Become the server: a Ctrl-C reaches it, and nothing is left behind."""
    line = command(roots, port, host, opens)
    os.execv(line[0], line)
