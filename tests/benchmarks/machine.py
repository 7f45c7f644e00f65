"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from saelab import machine

_PACKAGES = ("torch", "sae-lens", "eai-sparsify", "dictionary-learning", "numba")
_SHOWN = ("MALLOC_", "OMP_", "MKL_", "KMP_", "LD_PRELOAD", "SAELAB_KERNELS")
"""Environment variables, by their beginnings, that change how fast things run."""


def describe() -> dict[str, Any]:
    """Processor, memory, threads, versions, and variables that matter."""
    return machine.describe() | {
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "environment": {name: value for name, value in os.environ.items() if name.startswith(_SHOWN)},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def sentence(found: Mapping[str, Any]) -> str:
    """The machine in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    variables = "".join(f", {name}={value}" for name, value in found["environment"].items())
    return (
        f"{found['processor']}, {found['cores']} cores ({'with' if found['bf16_tiles'] else 'without'} matrix tiles), "
        f"{found['memory_gib']} GiB, {found['threads']} threads; Python {found['python']}, {versions}{variables}."
    )
