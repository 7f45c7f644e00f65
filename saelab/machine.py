"""The machine, as far as speed depends on it, and what memory this process takes of it."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path
from typing import Any

import torch


def cpu_capabilities() -> dict[str, Any]:
    """What torch knows of this processor; empty where this torch does not say."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def describe() -> dict[str, Any]:
    """JSON-able: processor and its instructions that matter here, threads in use, GPUs."""
    has = cpu_capabilities()
    return {
        "platform": platform.platform(),
        "cpu": has.get("cpu_name") or platform.processor(),
        "cores": has.get("num_physical_cores"),
        "avx512": bool(has.get("avx512_f", False)),
        "avx512_bf16": bool(has.get("avx512_bf16", False)),
        "vnni": bool(has.get("avx512_vnni", False) or has.get("avx_vnni", False)),
        "bf16_tiles": bool(has.get("amx_bf16", False)),
        "int8_tiles": bool(has.get("amx_int8", False)),
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


def memory_since(start: Path = Path("/proc/self")) -> tuple[int, int] | None:
    """This process' resident bytes now, and the most since `forget_peak`; None where there is no /proc.

    Unlike `peak_memory_bytes` it knows nothing of the process that started this one.
    """
    found = _status(start, "VmRSS", "VmHWM")
    return None if found is None else (found[0], found[1])


def own_memory(start: Path = Path("/proc/self")) -> int | None:
    """This process' resident bytes that no file holds; None where there is no /proc."""
    found = _status(start, "RssAnon")
    return None if found is None else found[0]


def _status(start: Path, *keys: str) -> list[int] | None:
    """Sizes in bytes that the kernel tells of a process."""
    try:
        lines = (start / "status").read_text(encoding="ascii", errors="replace").splitlines()
        found = {key: value for key, _, value in (line.partition(":") for line in lines)}
        return [int(found[key].split()[0]) * 1024 for key in keys]
    except (OSError, KeyError, ValueError, IndexError):
        return None


def forget_peak() -> None:
    """Let the peak of `memory_since` begin at what is resident now, where the system allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Options of glibc's `mallopt`."""


def keep_freed_memory() -> None:
    """Let this process keep the blocks it frees, up to 128 MiB each, for the next that it needs (glibc; else nothing).

    Otherwise every large tensor is fresh memory from the system: where each step makes gradients of 38 MB, first
    touches and returns took a tenth of it. Larger blocks stay with the system: kept, they would leave holes that
    small ones move into, and the next step would need as much again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**27)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
