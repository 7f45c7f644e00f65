"""`saelab doctor`: what there is to work with, and whether the parts fit together."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from rich.table import Table

from saelab import files, machine
from saelab.cli import provenance
from saelab.kernels.dispatch import decide, screening, screening_pays
from saelab.lm import assets
from saelab.lm.model import low_precision_pays, resolve_device


def report() -> dict[str, Any]:
    """Versions, machine, back ends, cache directory, demo assets."""
    home = files.home()
    parent = next(path for path in (home, *home.parents) if path.exists())
    device = resolve_device("auto")
    kernels, reason = decide(torch.zeros(1, device=device))
    return {
        "versions": provenance.versions(),
        "machine": machine.describe(),
        "device": str(device),
        "bfloat16_pays": low_precision_pays(device),
        "screening": screening(torch.zeros(1, device=device)).label if screening_pays(device) else None,
        "kernels": f"{kernels} ({reason})",
        "home": str(home),
        "free_bytes": shutil.disk_usage(parent).free,
        "writable": os.access(parent, os.W_OK),
        "assets": {name: assets.is_fetched(name) for name in assets.ASSETS},
    }


def table(found: dict[str, Any]) -> Table:
    """The report, for a person."""
    out = Table(box=None, pad_edge=False, show_header=False)
    out.add_column(style="bold")
    out.add_column()
    here = found["machine"]
    missing = [name for name, there in found["assets"].items() if not there]
    out.add_row("versions", ", ".join(f"{name} {value or 'missing'}" for name, value in found["versions"].items()))
    out.add_row("machine", f"{here['cpu']}, {here['threads']} threads, {here['platform']}")
    out.add_row("device", found["device"])
    models = "bfloat16" if found["bfloat16_pays"] else "float32 (bfloat16 is no faster here)"
    screened = found["screening"]
    selects = f"screened in {screened}" if screened else "exact (no faster product here)"
    out.add_row("precision", f"models run in {models}, selection is {selects}")
    out.add_row("kernels", found["kernels"])
    room = f"{found['free_bytes'] / 2**30:.0f} GiB free" + ("" if found["writable"] else ", NOT WRITABLE")
    out.add_row("cache", f"{found['home']} ({room})")
    out.add_row("assets", f"missing: {', '.join(missing)}; run `saelab assets fetch`" if missing else "all there")
    return out
