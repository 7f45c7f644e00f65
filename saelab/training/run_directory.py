"""A run's directory: what lies where, whose it is, and that only one process writes it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saelab.errors import SaelabError
from saelab.files import sweep_temporaries, write_text, writing


@dataclass(frozen=True)
class RunDirectory:
    """`runs/<name>/`: config.yaml metrics.jsonl summary.json log.txt sae/ checkpoints/ eval.json."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def sae(self) -> Path:
        return self.path / "sae"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def eval(self) -> Path:
        return self.path / "eval.json"

    @property
    def begun(self) -> bool:
        """Whether there is anything here that another config would spoil."""
        return self.config.exists() and (self.finished or any(self.checkpoints.glob("step-*")))

    @property
    def finished(self) -> bool:
        """Whether training is done: the inference form is written last."""
        return (self.sae / "config.json").exists()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the directory (made where it is not there); the kernel drops the lock however this ends.

        Raises:
            SaelabError: another process holds it, or it cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SaelabError(
                    "another process is working on this run", where=str(self.path), fix="wait for it, or stop it"
                ) from error
            sweep_temporaries(self.path)
            yield

    def start_over(self) -> None:
        """Remove what this run has written, and nothing else."""
        for path in (self.sae, self.checkpoints):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.config, self.metrics, self.summary, self.eval, self.log):
            path.unlink(missing_ok=True)

    def write_config(self, text: str) -> None:
        write_text(self.config, text)
