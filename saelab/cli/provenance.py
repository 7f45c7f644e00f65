"""What made an artefact: versions and git revision. Written, with the machine, into everything that is kept."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import saelab

_PACKAGES = ("torch", "transformers", "transformer-lens", "datasets", "safetensors", "numpy")


def git_revision(directory: Path | None = None) -> str | None:
    """The commit (with `+changes` where files differ from it), or None outside a repository."""
    where = directory or Path(saelab.__file__).parent
    try:
        _git(where, "ls-files", "--error-unmatch", "__init__.py")  # not some repository around the environment
        head = _git(where, "rev-parse", "HEAD")
        return f"{head}+changes" if _git(where, "status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):
        return None


def _git(where: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def versions() -> dict[str, str | None]:
    """Installed versions of what results depend on."""
    found: dict[str, str | None] = {"saelab": saelab.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
