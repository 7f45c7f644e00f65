"""Which files of a store were found whole, so that each is hashed once, not at every start.

`.checked` beside the shards holds a line per file whose sha256 was right: the sha256, and the size, time of
change and inode the file had. Whatever is written into a file or put in its place differs in one of them and is
hashed again. Where nothing can be written, a process remembers for itself.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from saelab.files import sha256_file

CHECKED = ".checked"


class Checked:
    """The memory of one store's checks."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._lines = _lines(directory / CHECKED)

    def whole(self, file: str, sha256: str) -> bool:
        """Whether a file is there with this sha256: looked at once, believed while the file stays as it is."""
        try:
            line = self._line(file, sha256)  # before it is read: a later change must not be believed
            if line in self._lines:
                return True
            if sha256_file(self.directory / file) != sha256:
                return False
        except FileNotFoundError:
            return False
        self._remember(line)
        return True

    def add(self, file: str, sha256: str) -> None:
        """Remember a sha256 that its caller has just taken."""
        self._remember(self._line(file, sha256))

    def forget(self) -> None:
        """Look at every file again, here and in later processes."""
        self._lines.clear()
        with contextlib.suppress(OSError):
            (self.directory / CHECKED).unlink(missing_ok=True)

    def _line(self, file: str, sha256: str) -> str:
        found = (self.directory / file).stat()
        return f"{sha256} {found.st_size} {found.st_mtime_ns} {found.st_ino} {file}"

    def _remember(self, line: str) -> None:
        self._lines.add(line)
        with contextlib.suppress(OSError), (self.directory / CHECKED).open("a", encoding="utf-8") as memory:
            memory.write(line + "\n")


def _lines(path: Path) -> set[str]:
    try:
        return set(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return set()
