"""The app as a user starts it, and a browser to look at it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from playwright.sync_api import Browser, sync_playwright

import saelab
from saelab.cli.browse import command

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """The app's address, and its process."""

    url: str
    pid: int


@contextmanager
def serving(*roots: Path, log: Path) -> Iterator[Server]:
    """`saelab browse ROOTS` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = command(list(roots), port, "127.0.0.1", opens=False)
    environment = os.environ | {"PYTHONPATH": str(Path(saelab.__file__).parent.parent)}
    with log.open("ab") as out:
        process = subprocess.Popen(line, stdout=out, stderr=out, env=environment)
    try:
        url = f"http://127.0.0.1:{port}/"
        _wait(f"{url}_stcore/health", process, log)
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the app did not start:\n{log.read_text()}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    found = next((path for name in _CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        raise RuntimeError(f"there is none of {', '.join(_CHROMIUM)} on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
