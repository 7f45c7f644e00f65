"""What a circuit is made of in a model behind the bridge: heads and MLPs, and where they write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.lm.model import LanguageModel

_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A model's heads and MLPs.

    Attributes:
        n_heads: query heads of each layer; several may share a key and a value (`n_kv_heads`).
        has_mlps: whether each layer has one; parallel: whether it reads what the layer's heads read.
    """

    lm: LanguageModel
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    has_mlps: bool
    parallel: bool

    @classmethod
    def of(cls, lm: LanguageModel) -> Anatomy:
        """Look a model over.

        Raises:
            SaelabError: some layer has no attention heads that can be read one by one.
        """
        known = lm.bridge.hook_dict
        lacking = [layer for layer in range(lm.n_layers) if z_hook(layer) not in known]
        lacking += [] if lacking or len(lm.hook(z_hook(0)).shape) == 2 else [0]
        if lacking:
            raise SaelabError(
                f"layer {lacking[0]} of {lm.identity['name']} has no attention heads that can be read one by one",
                fix="take a model of plain attention layers",
            )
        n_heads, d_head = lm.hook(z_hook(0)).shape
        d_model = lm.hook(stream_hook(0)).width
        has_mlps = all(mlp_hook(layer) in known for layer in range(lm.n_layers))
        n_kv = getattr(lm.bridge.cfg, "n_key_value_heads", None) or n_heads
        parallel = bool(getattr(lm.bridge.cfg, "parallel_attn_mlp", False))
        return cls(lm, lm.n_layers, n_heads, n_kv, d_head, d_model, has_mlps, parallel)

    @cached_property
    def W_O(self) -> list[Tensor]:
        """Of each layer, `[head, d_head, d_model]` float32: what a head's `hook_z` becomes in the residual stream."""
        blocks: Any = self.lm.bridge.blocks
        return [block.attn.W_O.detach().float() for block in blocks]

    def written(self, layer: int, z: Tensor) -> Tensor:
        """What heads write, `[..., head, d_model]` float32, of `[..., head, d_head]`; without the layer's bias."""
        return torch.einsum("...hd,hdm->...hm", z.float(), self.W_O[layer])

    def check_additive(self) -> None:
        """Raise where a layer's output is not the sum of its input and of what its heads and its MLP write.

        Raises:
            SaelabError: edges and direct effects make no sense there.
        """
        layer = self.n_layers - 1
        names = [stream_hook(layer), z_hook(layer), out_hook(layer)] + [mlp_hook(layer)] * self.has_mlps
        tokens = torch.arange(8)[None] % self.lm.n_vocabulary
        hooks = [self.lm.hook(name) for name in names]
        found = {name: value.float() for name, value in self.lm.capture(tokens, hooks).items()}
        z = found[z_hook(layer)].unflatten(-1, (self.n_heads, self.d_head))
        made = found[stream_hook(layer)] + self.written(layer, z).sum(-2)
        made = made + found[mlp_hook(layer)] if self.has_mlps else made
        attention: Any = self.lm.bridge.blocks[layer].attn
        bias = getattr(attention, "b_O", None)
        made = made if bias is None else made + bias.float()
        off = (made - found[out_hook(layer)]).norm() / found[out_hook(layer)].norm()
        if off > _TOLERANCE:
            raise SaelabError(
                f"what heads and MLPs of {self.lm.identity['name']} write is changed before it is added to the "
                f"residual stream ({off:.0%} of it is other than their sum), so that there are no edges between them",
                fix="use a method that patches or ablates",
            )


def z_hook(layer: int) -> str:
    """What heads read, weighted by attention: `[row, position, head, d_head]`."""
    return f"blocks.{layer}.attn.hook_z"


def mlp_hook(layer: int) -> str:
    return f"blocks.{layer}.hook_mlp_out"


def stream_hook(layer: int) -> str:
    """The residual stream that enters a layer."""
    return f"blocks.{layer}.hook_resid_pre"


def out_hook(layer: int) -> str:
    """The residual stream that leaves it."""
    return f"blocks.{layer}.hook_resid_post"


def head_name(layer: int, head: int) -> str:
    return f"a{layer}.h{head}"


def mlp_name(layer: int) -> str:
    return f"m{layer}"


_GROUP = re.compile(r"a(\d+)\.g(\d+)(<[kv]>)?")


def readers(target: str, shared: int) -> list[str]:
    """The heads of a group, `shared` of which have a key and a value in common: `a5.g1<k>` is `a5.h3<k>` and its
    neighbours. Of anything else, itself."""
    match = _GROUP.fullmatch(target)
    if match is None:
        return [target]
    layer, group, part = int(match[1]), int(match[2]), match[3] or ""
    return [f"{head_name(layer, group * shared + i)}{part}" for i in range(shared)]


INPUT, OUTPUT = "input", "logits"
