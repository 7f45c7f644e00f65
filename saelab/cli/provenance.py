"""What made an artefact: versions, git revision, machine. Written into everything that is kept."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import saelab
from saelab.kernels.dispatch import cpu_capabilities

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


def machine() -> dict[str, Any]:
    """The machine, as far as speed depends on it."""
    capabilities = cpu_capabilities()
    return {
        "platform": platform.platform(),
        "cpu": capabilities.get("cpu_name") or platform.processor(),
        "cores": capabilities.get("num_physical_cores"),
        "avx512": bool(capabilities.get("avx512_f", False)),
        "bf16_tiles": bool(capabilities.get("amx_bf16", False)),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def peak_memory_bytes() -> int:
    """The most resident memory this process has had, mapped files included (0 where unknown)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
