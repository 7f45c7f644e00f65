"""What `precision: auto` means on a device."""

from __future__ import annotations

from typing import Literal

import torch

from saelab.kernels.dispatch import screening_pays
from saelab.sae.coders import Precision


def resolve(wanted: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """ "auto" screens where products in fewer bits are faster than float32 ones."""
    if wanted != "auto":
        return wanted
    return "screened" if screening_pays(device) else "exact"
