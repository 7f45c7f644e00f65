"""Where an experiment on circuits is kept, and where such are found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saelab.evals.records import MAX_DEPTH, directories, is_run
from saelab.files import writing

_DOCUMENT, _PARTS = "circuit.json", "parts.json"


@dataclass(frozen=True)
class CircuitDirectory:
    """`runs/<name>/`: circuit.yaml parts.json parts/ circuit.json mib/ circuit.html circuit.log. Names are other than
    those of a run's files, so that both may share a directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "circuit.yaml"

    @property
    def parts(self) -> Path:
        """What is made so far; large tensors are in a directory of the same name."""
        return self.path / _PARTS

    @property
    def document(self) -> Path:
        return self.path / _DOCUMENT

    @property
    def mib(self) -> Path:
        """A file for each method, as MIB's circuit track reads them."""
        return self.path / "mib"

    @property
    def page(self) -> Path:
        return self.path / "circuit.html"

    @property
    def log(self) -> Path:
        return self.path / "circuit.log"

    def start_over(self) -> None:
        """Remove what an experiment has written here, and nothing else."""
        for path in (self.config, self.parts, self.document, self.page, self.log):
            with writing(path):
                path.unlink(missing_ok=True)
        for directory in (self.mib, self.parts.with_suffix("")):
            _remove(directory)

    def empty_mib(self) -> None:
        """Remove the files of methods, which may be no more, or be called otherwise."""
        _remove(self.mib)


def _remove(directory: Path) -> None:
    if directory.exists():
        with writing(directory):
            shutil.rmtree(directory)


def find_circuits(root: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """Directories that hold an experiment, also one under way: `root` and up to `depth` below, by path; not inside
    runs."""
    try:
        found = (root / _DOCUMENT).is_file() or (root / _PARTS).is_file()
        below = [] if is_run(root) or not depth else directories(root)
    except OSError:
        return
    if found:
        yield root
    for directory in below:
        yield from find_circuits(directory, depth - 1)
