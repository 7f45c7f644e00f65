"""The least that reading activations can cost: the model as transformers loads it, one hook, an early stop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saelab.errors import SaelabError
from saelab.lm.assets import resolve
from saelab.lm.model import Hook, LanguageModel, ModelSpec, quiet_transformers


class _StopError(Exception):
    """The activation that was wanted is there."""


class BareForward:
    """A second copy of a language model, without TransformerLens, run up to one of its blocks.

    Args:
        spec: which model; lm: the same, already loaded, for its device and dtype.
        last_layer: the block to stop behind; None: all of them.

    Raises:
        SaelabError: its blocks are not found.
    """

    def __init__(self, spec: ModelSpec, lm: LanguageModel, last_layer: int | None):
        from transformers import AutoModelForCausalLM

        with quiet_transformers():
            model: Any = AutoModelForCausalLM.from_pretrained(
                resolve(spec.name), revision=spec.revision or "main", dtype=lm.dtype
            )
        self.model = model.to(lm.device).eval().requires_grad_(False)
        self.device = lm.device
        self.found: Tensor | None = None
        if last_layer is not None:
            _blocks(self.model, lm.n_layers)[last_layer].register_forward_hook(self._stop)

    def _stop(self, block: nn.Module, inputs: object, output: Any) -> None:
        self.found = output[0] if isinstance(output, tuple) else output
        raise _StopError

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor | None:
        """`[context, position]` -> `[context, position, d_model]`, what flows out of the block (None without one)."""
        try:
            self.model(tokens.to(self.device), use_cache=False)
        except _StopError:
            return self.found
        return None


class Beside:
    """Stands for a language model: a bare pass over the same contexts goes before or after each of its passes, in turn.

    A machine whose speed changes from one second to the next then slows both alike. What a thread does
    meanwhile (capture's writes its shards) costs both their share of it.

    Attributes:
        seconds: what the bare passes took; tokens: how many went through each model.
    """

    def __init__(self, lm: LanguageModel, bare: BareForward):
        self._lm, self._bare = lm, bare
        self._first = False
        self.seconds, self.tokens = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def capture(self, tokens: Tensor, hooks: Sequence[Hook]) -> dict[str, Tensor]:
        self._first = not self._first
        if self._first:
            self._run_bare(tokens)
        found = self._lm.capture(tokens, hooks)
        if not self._first:
            self._run_bare(tokens)
        self.tokens += tokens.numel()
        return found

    def _run_bare(self, tokens: Tensor) -> None:
        started = time.perf_counter()
        self._bare(tokens)
        self.seconds += time.perf_counter() - started


def _blocks(model: nn.Module, n_layers: int) -> nn.ModuleList:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return module
    raise SaelabError(f"this model has no list of {n_layers} blocks", where=type(model).__name__)
