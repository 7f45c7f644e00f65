"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from saelab.lm.model import cpu_capabilities

_PACKAGES = ("torch", "sae-lens", "eai-sparsify", "dictionary-learning", "numba")
_SHOWN = ("MALLOC_", "OMP_", "MKL_", "KMP_", "LD_PRELOAD", "SAELAB_KERNELS")
"""Environment variables, by their beginnings, that change how fast things run."""


def describe() -> dict[str, object]:
    """Processor, memory, threads, versions, and variables that matter."""
    cpu = cpu_capabilities()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "avx512_vnni": bool(cpu.get("avx512_vnni")),
        "amx_bf16": bool(cpu.get("amx_bf16")),
        "system": platform.platform(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in _PACKAGES},
        "environment": {name: value for name, value in os.environ.items() if name.startswith(_SHOWN)},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def sentence(machine: dict[str, object]) -> str:
    """The machine in a line."""
    versions = machine["versions"]
    assert isinstance(versions, dict)
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    tiles = "with" if machine["amx_bf16"] else "without"
    variables = machine["environment"]
    assert isinstance(variables, dict)
    extra = "".join(f", {name}={value}" for name, value in variables.items())
    return (
        f"{machine['processor']}, {machine['cores']} cores ({tiles} matrix tiles), {machine['memory_gib']} GiB, "
        f"{machine['threads']} threads; Python {machine['python']}, {listed}{extra}."
    )
