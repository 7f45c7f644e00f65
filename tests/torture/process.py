"""saelab's command in a process that can be killed.

Imports take seconds, in which nothing is written: a server that has done them forks a process for each command. What
runs in there, and what SIGKILL ends, is the command itself; `plainly` starts it as a user would.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

LOG = "output.txt"
_IMPORTED = ("saelab.cli.app", "saelab.cli.stages", "transformers", "transformer_lens.model_bridge", "datasets")


def start_server() -> None:
    """Import what commands need, so that the first of them does not wait for it."""
    with patch.dict(os.environ, PYTHONWARNINGS="ignore:resource_tracker"):
        resource_tracker.ensure_running()  # it need not warn of the locks that killed processes leave
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(_IMPORTED))
    first = server.Process(target=_nothing)
    first.start()
    first.join()


def _nothing() -> None:
    pass


def start(command: str, config: str, directory: Path) -> BaseProcess:
    """Begin `saelab COMMAND CONFIG` in `directory`; what it prints goes to a file there."""
    server = multiprocessing.get_context("forkserver")
    process = server.Process(target=_run, args=(command, config, str(directory)), daemon=True)
    process.start()
    return process


def _run(command: str, config: str, directory: str) -> None:
    from saelab.cli import app

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where all this runs in the background
    os.chdir(directory)
    os.environ |= _environment(Path(directory))
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["saelab", command, config]
    app.main()


def plainly(command: str, config: str, directory: Path) -> int:
    """Run `saelab COMMAND CONFIG` in `directory` to its end; its exit code."""
    with (directory / LOG).open("a") as log:
        arguments = [sys.executable, "-m", "saelab.cli", command, config]
        environment = os.environ | _environment(directory)
        return subprocess.run(arguments, cwd=directory, env=environment, stdout=log, stderr=log).returncode


def _environment(directory: Path) -> dict[str, str]:
    return {"SAELAB_HOME": str(directory / "home"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def output(directory: Path) -> str:
    """The end of what commands in `directory` have said."""
    path = directory / LOG
    return path.read_text(errors="replace")[-2000:].strip() if path.exists() else ""
