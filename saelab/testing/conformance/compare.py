"""Comparisons that say in a sentence what differs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def expect(condition: bool, sentence: str) -> None:
    """Raise `AssertionError` with the sentence unless the condition holds (under `python -O`, too)."""
    if not condition:
        raise AssertionError(sentence)


def expect_close(found: Tensor, wanted: Tensor, sentence: str, *, tolerance: float = 1e-10) -> None:
    """Two tensors of one shape, up to `tolerance` times the larger of 1 and the largest magnitude wanted."""
    expect(found.shape == wanted.shape, f"{sentence}: shape {list(found.shape)}, not {list(wanted.shape)}")
    if not wanted.numel():
        return
    difference, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    allowed = tolerance * max(1.0, largest)
    expect(difference <= allowed, f"{sentence}: they differ by up to {difference:.3g} (largest value {largest:.3g})")


def expect_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], sentence: str) -> None:
    """The same names with the same bits."""
    expect(found.keys() == wanted.keys(), f"{sentence}: it has {sorted(found.keys() ^ wanted.keys())} or lacks it")
    different = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    expect(not different, f"{sentence}: different bits in {', '.join(different)}")
