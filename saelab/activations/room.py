"""How many bytes a store will take, and whether there is room for them: asked before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saelab.activations.store import DTYPES, Shard
from saelab.errors import SaelabError

if TYPE_CHECKING:
    from saelab.activations.capture import CaptureSpec

INDEX_COLUMNS = ("context", "position", "document")
"""int32 columns beside the activations."""

_FILE_BYTES = 4096
"""What a file takes besides its tensors: its header, its lines in the index and the manifest."""
_MEAN_BYTES = 32
"""A number of the mean activation, written out in the manifest."""


def row_bytes(widths: Sequence[int], spec: CaptureSpec) -> int:
    """Bytes of one stored token; `widths` are the hooks' `d_hook`, flattened."""
    columns = 2 if spec.loss_grad else 1
    return sum(widths) * columns * DTYPES[spec.dtype].itemsize + 4 * len(INDEX_COLUMNS)


@dataclass(frozen=True)
class Room:
    """What a store takes and what is free where it goes, in bytes.

    Attributes:
        total_bytes: about the whole store; contexts are taken to be full and to lose their first position alone.
        missing_bytes: what is not written yet.
    """

    directory: Path
    total_bytes: int
    missing_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        there = "" if self.missing_bytes == self.total_bytes else f" of {size_text(self.total_bytes)}"
        return (
            f"about {size_text(self.missing_bytes)}{there} to write, {size_text(self.free_bytes)} free "
            f"in {self.directory}"
        )

    def check(self) -> None:
        """Raise where there is not enough."""
        if self.missing_bytes > self.free_bytes:
            raise SaelabError(
                f"there is no room for these activations: they need about {size_text(self.missing_bytes)} more, and "
                f"{size_text(self.free_bytes)} are free",
                where=str(self.directory),
                fix="fewer activations.tokens, activations.dtype: bfloat16 (half of float32), or another disk: "
                "activations.dir, or SAELAB_HOME in the environment",
            )


def estimate(
    directory: Path, widths: Sequence[int], spec: CaptureSpec, *, context_length: int, kept: Iterable[Shard] = ()
) -> Room:
    """Room for the store of `spec` in `directory`, where the shards `kept` are already."""
    total = _MEAN_BYTES * sum(widths)
    for tokens in (spec.tokens, spec.heldout_tokens):
        contexts = -(-tokens // (context_length - 1))  # the first position is a BOS
        total += tokens * row_bytes(widths, spec) + contexts * 4 * (2 * context_length + 1)
        files = -(-tokens * row_bytes(widths, spec) // spec.shard_bytes) + 2 * -(-contexts // spec.shuffle_contexts)
        total += files * _FILE_BYTES
    kept = list(kept)
    contexts_bytes = {shard.contexts: shard.contexts_bytes for shard in kept}
    there = sum(shard.bytes for shard in kept) + sum(contexts_bytes.values())
    parent = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return Room(directory, total, max(0, total - there), shutil.disk_usage(parent).free)


def size_text(n_bytes: int) -> str:
    """Bytes for a person: GB from a tenth of one on, else MB."""
    return f"{n_bytes / 1e9:,.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:,.1f} MB"
