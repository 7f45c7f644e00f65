"""A run's directory: what lies where, whose it is, and that only one process writes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saelab.errors import SaelabError
from saelab.files import only_process, read_json, sweep_temporaries, write_json, write_text, writing
from saelab.training import sinks

_MARKER = ".lock"
"""The lock's file stays, and says whose directory this is."""
_FAILURE, _ORIGIN = "failed.json", "origin.json"


@dataclass(frozen=True)
class RunDirectory:
    """`runs/<name>/`: config.yaml metrics.jsonl summary.json log.txt sae/ checkpoints/ milestones/ eval.json index/
    report.html; origin.json where it starts from another SAE, failed.json where training failed."""

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
    def milestones(self) -> Path:
        return self.path / "milestones"

    @property
    def eval(self) -> Path:
        return self.path / "eval.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def index(self) -> Path:
        return self.path / "index"

    @property
    def failure(self) -> str | None:
        """Why this run stopped for good; None where it did not."""
        path = self.path / _FAILURE
        return str(read_json(path)["message"]) if path.exists() else None

    def write_failure(self, message: str) -> None:
        write_json(self.path / _FAILURE, {"message": message})

    @property
    def origin_sha256(self) -> str:
        """Of the SAE whose weights this run began with.

        Raises:
            SaelabError: it is not on record.
        """
        return str(read_json(self.path / _ORIGIN)["sha256"])

    def write_origin(self, path: str, sha256: str) -> None:
        write_json(self.path / _ORIGIN, {"path": path, "sha256": sha256})

    def check_ours(self) -> None:
        """Raise where the directory holds anything and saelab has not made it."""
        if self.path.exists() and not (self.path / _MARKER).exists() and any(self.path.iterdir()):
            raise SaelabError(
                "this directory holds files that are not a run's",
                where=str(self.path),
                fix="give the run another name (-o name=...) or place (-o runs_dir=...)",
            )

    @property
    def begun(self) -> bool:
        """Whether there is anything here that another config would spoil."""
        return self.finished or any(self.checkpoints.glob("step-" + "[0-9]" * 8))

    @property
    def finished(self) -> bool:
        """Whether training is done: the inference form is written last."""
        return (self.sae / "config.json").exists()

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to train: the SAE is there, or training failed."""
        return self.finished or self.failure is not None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the directory (made where it is not there); the kernel drops the lock however this ends.

        Raises:
            SaelabError: another process holds it, it cannot be written, or it is not ours.
        """
        self.check_ours()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        busy = SaelabError(
            "another process is working on this run", where=str(self.path), fix="wait for it, or stop it"
        )
        with only_process(self.path / _MARKER, busy):
            sweep_temporaries(self.path)
            yield

    def start_over(self) -> None:
        """Remove what this run has written, and nothing else."""
        for directory in (self.sae, self.checkpoints, self.milestones, self.index, self.path / sinks.EVENTS):
            if directory.exists():
                with writing(directory):
                    shutil.rmtree(directory)
        files = (self.config, self.metrics, self.summary, self.eval, self.report, self.log)
        for path in (*files, *(self.path / name for name in (sinks.RECORD, _FAILURE, _ORIGIN))):
            with writing(path):
                path.unlink(missing_ok=True)

    def write_config(self, text: str) -> None:
        write_text(self.config, text)
