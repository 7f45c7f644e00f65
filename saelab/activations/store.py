"""The activation store: a directory of safetensors shards and a manifest, as a reader sees it.

```
manifest.json                written last: schema, content (what determined it) and its hash, hooks, dtype,
                             loss_grad, splits, mask, scaling, every file with its bytes and sha256, complete: true
shards.jsonl                 one line appended after each shard is in place
shard-train-00000-000.safetensors  per hook [n, d_hook]; context, position, document [n] int32;
                             with `loss_grad: true` also loss_grad/<hook> [n, d_hook]
contexts-train-00000.safetensors   tokens, documents [contexts, context_length] int32; length [contexts] int32
```
A shard holds rows of one split, shuffled across the contexts of one window (`shuffle_contexts`). Rows
of a context are found again by `context` and `position`. Activations and `loss_grad/<hook>`, the
gradient of their context's summed next-token loss (nats), are in raw units and the store's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.activations.checked import Checked
from saelab.errors import SaelabError, did_you_mean
from saelab.files import read_json, read_tensors, sha256_json
from saelab.lm.mask import Mask
from saelab.lm.windows import Split
from saelab.sae import Scaling

SCHEMA = 1
MANIFEST = "manifest.json"
INDEX = "shards.jsonl"
NORM_LIMITS = "norm-limits.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

REMAKE = f"delete its {MANIFEST} and run the command that cached again: it makes only what is missing or damaged"
"""What mends a damaged store."""


def loss_grad_name(hook: str) -> str:
    """The name a hook's gradients have in a shard."""
    return f"loss_grad/{hook}"


@dataclass(frozen=True)
class Shard:
    """One shard and the contexts its rows come from.

    Attributes:
        split: which side of the split.
        file, bytes, sha256: of the rows.
        n_tokens: rows.
        window: number of the shuffle window within the split.
        contexts: the file of that window's contexts; first_context: its first context's number.
        last: whether this is the window's last shard.
    """

    split: Split
    file: str
    bytes: int
    sha256: str
    n_tokens: int
    window: int
    contexts: str
    contexts_bytes: int
    contexts_sha256: str
    first_context: int
    n_contexts: int
    last: bool


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a complete store.

    Raises:
        SaelabError: absent, not JSON, not complete, or of another schema.
    """
    path = directory / MANIFEST
    if not path.exists():
        raise SaelabError("there is no complete activation store here", where=str(directory), fix="run `saelab cache`")
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not document.get("complete"):
        raise SaelabError(f"not a complete activation store of schema {SCHEMA}", where=str(path), fix=REMAKE)
    return document


@dataclass(frozen=True, eq=False)
class Contexts:
    """Token ids and documents of consecutive contexts: `[contexts, context_length]` int32, padded
    on the right; `length` `[contexts]` says how many are real."""

    tokens: Tensor
    documents: Tensor
    length: Tensor

    def part(self, start: int, contexts: int) -> Contexts:
        """So many of them, or what there is, from one on."""
        rows = slice(start, start + contexts)
        return Contexts(self.tokens[rows], self.documents[rows], self.length[rows])


class Store:
    """A complete activation store, opened for reading.

    Attributes:
        dtype: of activations and gradients.
        has_loss_grad: whether the loss's gradients lie beside the activations.

    Raises:
        SaelabError: absent, incomplete, of another schema, damaged, or made by another configuration.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        path = directory / MANIFEST
        self.manifest = read_manifest(directory)
        try:
            self.shards = [Shard(**line) for line in self.manifest["shards"]]
            self.hooks = list(self.manifest["hooks"])
            self.dtype = DTYPES[self.manifest["dtype"]]
            self.mask = Mask.from_json(self.manifest["mask"])
            self.content_sha256 = str(self.manifest["content_sha256"])
            self.has_loss_grad = bool(self.manifest["loss_grad"])
            for hook in self.hooks:
                statistics = self.manifest["scaling"][hook]
                if len(statistics["mean"]) != self.width(hook) or not statistics["mean_norm_centred"] > 0:
                    raise ValueError(f"the statistics of {hook} do not fit it")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SaelabError(f"this manifest is damaged: {error}", where=str(path), fix=REMAKE) from error
        self._checked = Checked(directory)
        for shard in self.shards:
            self._check_size(shard.file, shard.bytes)
            self._check_size(shard.contexts, shard.contexts_bytes)

    def _check_size(self, file: str, expected: int) -> None:
        path = self.directory / file
        found = path.stat().st_size if path.exists() else None
        if found != expected:
            what = "is missing" if found is None else f"is damaged: {found} bytes, the manifest says {expected}"
            raise SaelabError(f"this shard {what}", where=str(path), fix=REMAKE)

    def _open(self, file: str, sha256: str) -> dict[str, Tensor]:
        """A file's tensors, mapped; its bytes are compared with the manifest unless they were before."""
        path = self.directory / file
        try:
            whole = self._checked.whole(file, sha256)
        except OSError as error:
            raise SaelabError(f"this shard cannot be read: {error.strerror}", where=str(path)) from error
        if not whole:
            raise SaelabError("this shard is damaged: its sha256 is not the manifest's", where=str(path), fix=REMAKE)
        return read_tensors(path)

    def expect(self, content: dict[str, Any]) -> None:
        """Raise where the store was not made from `content`."""
        if self.content_sha256 != sha256_json(content):
            mine = self.manifest["content"]
            changed = sorted(key for key in mine.keys() | content.keys() if mine.get(key) != content.get(key))
            raise SaelabError(
                f"this store was made by another configuration: {', '.join(changed)} differ",
                where=str(self.directory),
                fix="give activations.dir another name, or delete this one",
            )

    def width(self, hook: str) -> int:
        """`d_hook`, flattened."""
        self._check_hook(hook)
        return int(torch.Size(self.manifest["hooks"][hook]["shape"]).numel())

    def scaling(self, hook: str, *, centre: bool = True, scale: bool = True) -> Scaling:
        """What training sees: `c * (x - mean)` with mean norm sqrt(d), or parts of it."""
        self._check_hook(hook)
        statistics = self.manifest["scaling"][hook]
        mean = torch.tensor(statistics["mean"]) if centre else torch.zeros(len(statistics["mean"]))
        norm = statistics["mean_norm_centred" if centre else "mean_norm"]
        return Scaling(mean, len(statistics["mean"]) ** 0.5 / norm if scale else 1.0)

    def mean(self, hook: str) -> Tensor:
        """`[d_hook]` mean activation over training tokens, raw units: for mean ablation."""
        self._check_hook(hook)
        return torch.tensor(self.manifest["scaling"][hook]["mean"])

    def _check_hook(self, hook: str) -> None:
        if hook not in self.manifest["hooks"]:
            raise SaelabError(
                f"this store does not hold '{hook}'", where=str(self.directory), fix=did_you_mean(hook, self.hooks)
            )

    def expect_loss_grad(self) -> None:
        """Raise where the store holds no gradients."""
        if not self.has_loss_grad:
            raise SaelabError(
                "this store holds no gradients of the loss",
                where=str(self.directory),
                fix="cache again with `activations: {loss_grad: true}`",
            )

    def of(self, split: Split) -> list[Shard]:
        return [shard for shard in self.shards if shard.split == split]

    def n_tokens(self, split: Split) -> int:
        return sum(shard.n_tokens for shard in self.of(split))

    def read(self, shard: Shard) -> dict[str, Tensor]:
        """A shard's tensors, mapped from the file.

        Raises:
            SaelabError: it cannot be read, or is not what the manifest says.
        """
        tensors = self._open(shard.file, shard.sha256)
        for hook in self.hooks:
            expected = (shard.n_tokens, self.width(hook))
            for name in (hook, loss_grad_name(hook)) if self.has_loss_grad else (hook,):
                if name not in tensors or tuple(tensors[name].shape) != expected:
                    where = str(self.directory / shard.file)
                    raise SaelabError(f"expected {name} of shape {list(expected)}", where=where)
        return tensors

    def contexts(self, split: Split) -> Iterator[Contexts]:
        """The contexts of a split, a window at a time, in order."""
        for shard in self.of(split):
            if shard.last:
                yield Contexts(**self._open(shard.contexts, shard.contexts_sha256))
