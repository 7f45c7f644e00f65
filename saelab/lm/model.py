"""A language model behind TransformerLens' bridge: load it, read hooks, run it edited, score it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor

from saelab.errors import SaelabError, SettingError, did_you_mean
from saelab.files import sha256_file, sha256_json
from saelab.machine import cpu_capabilities, keep_freed_memory

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

DType = Literal["auto", "float32", "bfloat16", "float16"]

_READING = 1_000_000
"""The level of hooks that only read, by which they are taken off again: far from those that the bridge counts up."""


@dataclass(frozen=True)
class ModelSpec:
    """Which language model, and how to run it."""

    name: Annotated[str, "'asset:...' (see `saelab assets list`), a local directory, or a hub id such as gpt2"]
    revision: Annotated[str | None, "branch, tag or commit on the hub"] = None
    dtype: Annotated[DType, "auto: bfloat16 where this machine multiplies it faster than float32"] = "auto"
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps"] = "auto"


def resolve_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingError("device", f"device '{name}' cannot be used here: {reason}") from error
    return device


def low_precision_pays(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones: GPUs, and CPUs with matrix tiles (AMX).

    A CPU with AVX-512 but without tiles runs them no faster (measured 0.7 to 0.9 of float32's speed).
    """
    if device.type == "cpu":
        return bool(cpu_capabilities().get("amx_bf16", False))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def resolve_dtype(name: DType, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if low_precision_pays(device) else "float32"
    return getattr(torch, name)


@dataclass(frozen=True)
class Hook:
    """A place in the model: its name, the block it belongs to (None outside blocks), and its shape
    per token (`[d_model]`, or `[n_heads, d_head]`)."""

    name: str
    layer: int | None
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """`d_hook`: the shape flattened."""
        return int(torch.Size(self.shape).numel())


class LanguageModel:
    """A causal language model with named hooks. Inference only: no parameter asks for gradients.

    Several threads may use one: since hooks are the whole model's, passes take turns.

    Attributes:
        bridge: TransformerLens' `TransformerBridge`.
        tokenizer: as it was saved, without the bridge's changes.
        device, dtype: where and in which precision it runs ("auto" resolved).
        identity: JSON-able; what determines the activations this model gives.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: torch.device,
        dtype: torch.dtype,
        identity: dict[str, Any],
    ):
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.device = device
        self.dtype = dtype
        self.identity = identity
        self._hooks: dict[str, Hook] = {}
        self._points: dict[str, Any] = {}
        self._turn = threading.RLock()

    @property
    def n_layers(self) -> int:
        return self.bridge.cfg.n_layers

    @property
    def n_parameters(self) -> int:
        model: Any = self.bridge.original_model
        return sum(parameter.numel() for parameter in model.parameters())

    @property
    def max_context(self) -> int | None:
        """Longest context in tokens, where the model says so."""
        return getattr(self.bridge.cfg, "n_ctx", None)

    def hook(self, name: str) -> Hook:
        """Look a hook up by name; its shape is found by running a few tokens.

        Raises:
            SaelabError: there is none of that name (with the close ones), or it carries no activations
                per token.
        """
        if name not in self._hooks:
            self._hooks[name] = self._probe(name)
        return self._hooks[name]

    def _probe(self, name: str) -> Hook:
        if name not in self.bridge.hook_dict:
            hint = did_you_mean(name, self.bridge.hook_dict) or "blocks.<layer>.hook_resid_post is the usual one"
            raise SaelabError(f"unknown hook '{name}' for {self.identity['name']}", where="hook", fix=hint)
        found = re.match(r"blocks\.(\d+)\.", name)
        layer = int(found.group(1)) if found else None
        tokens = torch.zeros(3, 5, dtype=torch.long, device=self.device)  # a shape nothing else has
        value = self._run(tokens, [name], layer).get(name)
        if value is None or value.ndim < 3 or value.shape[:2] != (3, 5):
            raise SaelabError(
                f"hook '{name}' does not carry one activation per token",
                where="hook",
                fix="choose a residual, MLP or head output, such as blocks.<layer>.hook_resid_post",
            )
        return Hook(name, layer, tuple(value.shape[2:]))

    def _run(self, tokens: Tensor, names: Sequence[str], last_layer: int | None) -> dict[str, Tensor]:
        """What `bridge.run_with_cache` gives, without asking all hooks of the model for their names at each batch."""
        values: dict[str, Tensor] = {}

        def read(value: Any, hook: Any, name: str) -> None:
            values[name] = value[0] if isinstance(value, tuple) else value

        stop = None if last_layer is None else last_layer + 1
        with self._turn, torch.no_grad():
            points = {name: self._point(name) for name in names}
            try:
                for name, point in points.items():
                    point.add_hook(partial(read, name=name), level=_READING)
                self.bridge(tokens, stop_at_layer=stop)
            finally:
                for point in points.values():
                    point.remove_hooks("fwd", level=_READING)
        return values

    def _point(self, name: str) -> Any:
        if name not in self._points:
            self._points[name] = self.bridge.hook_dict[name]
        return self._points[name]

    def capture(self, tokens: Tensor, hooks: Sequence[Hook]) -> dict[str, Tensor]:
        """Activations of `[context, position]` tokens at several hooks, in one pass that stops after
        the last of them: each `[context, position, d_hook]`."""
        layers = [hook.layer for hook in hooks]
        last = None if any(layer is None for layer in layers) else max(layer for layer in layers if layer is not None)
        found = self._run(tokens.to(self.device), [hook.name for hook in hooks], last)
        return {hook.name: found[hook.name].flatten(2) for hook in hooks}

    def capture_with_loss_grad(
        self, tokens: Tensor, length: Tensor, hooks: Sequence[Hook]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Activations as `capture` gives them and, from the same pass, the gradients of the summed
        next-token loss: each `[context, position, d_hook]`, in the model's dtype.

        A gradient is with respect to what flows on from its hook (what `edited` would change), through
        every later token. The loss is summed over predictions, so a context's gradients depend neither
        on its neighbours in the batch nor on padding, whose own are 0.

        Args:
            tokens: `[context, position]`, padded on the right.
            length: `[context]`: how many tokens are real.

        Raises:
            SaelabError: the loss does not depend on a hook.
        """
        tokens = tokens.to(self.device)
        values: dict[str, Tensor] = {}

        def read(value: Tensor, hook: Any, name: str) -> Tensor:
            # A view of its own: what bypasses this hook must not count, be an earlier one read or not.
            values[name] = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
            return values[name]

        reads = [(hook.name, partial(read, name=hook.name)) for hook in hooks]
        with self._turn, torch.enable_grad(), self.bridge.hooks(fwd_hooks=reads):
            logits = self.bridge(tokens)
        gradients = _gradients(logits, tokens, length, {hook.name: values[hook.name] for hook in hooks})
        return {hook.name: values[hook.name].detach().flatten(2) for hook in hooks}, gradients

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """`[context, position]` -> `[context, position, vocabulary]`, in the model's dtype."""
        with self._turn:
            return self.bridge(tokens.to(self.device))

    @property
    def n_vocabulary(self) -> int:
        """Tokens that the model predicts over."""
        return self._unembedding.weight.shape[0]

    @property
    def _unembedding(self) -> Any:
        model: Any = self.bridge.original_model
        return model.get_output_embeddings()

    @torch.no_grad()
    def direct_logits(self, directions: Tensor) -> Tensor:
        """`[n, d_model]` directions of the residual stream -> `[n, vocabulary]`: what each would say alone, at norm
        sqrt(d_model), through the final norm and the unembedding, biases left out (the logit lens)."""
        unit = torch.nn.functional.normalize(directions.float(), dim=-1) * directions.shape[-1] ** 0.5
        rows = unit.to(self.device, self.dtype)[None]
        norm: Any = self.bridge.ln_final
        with self._turn:
            normed = norm(rows) - norm(torch.zeros_like(rows[:, :1]))
        return torch.nn.functional.linear(normed[0], self._unembedding.weight)

    @contextmanager
    def hooked(
        self, hooks: Sequence[tuple[str, Callable[[Tensor, Any], Tensor | None]]]
    ) -> Iterator[TransformerBridge]:
        """The bridge with hooks on it, by name, while inside; other threads wait. What a hook returns flows on."""
        with self._turn, self.bridge.hooks(fwd_hooks=list(hooks)):
            yield self.bridge

    def check_order(self, source: Hook, hook: Hook) -> None:
        """Run a few tokens.

        Raises:
            SaelabError: `source` comes after `hook`.
        """
        with self.edited_from(source, hook, lambda _, value: value):
            self.logits(torch.zeros(1, 2, dtype=torch.long))

    @contextmanager
    def edited(self, hook: Hook, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While inside, `edit` maps the hook's `[context, position, d_hook]` to what flows on; other threads wait."""
        with self.edited_from(hook, hook, lambda _, value: edit(value)):
            yield

    @contextmanager
    def edited_from(self, source: Hook, hook: Hook, edit: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
        """While inside, `edit(read, value)` is what flows on from `hook`: of its own `[context, position,
        d_hook]`, and of what `source` carried in the same pass, `[context, position, d_source]`; other threads wait.

        Raises:
            SaelabError: on running the model, where `source` comes after `hook`.
        """
        carried: list[Tensor] = []

        def read(value: Tensor, hook: Any) -> None:
            carried[:] = [value.flatten(2)]

        def replace(value: Tensor, hook: Any) -> Tensor:
            if not carried:
                raise SaelabError(
                    f"'{source.name}' comes after '{replaced}' in the model, so that nothing there can be made of it",
                    where="target_hook",
                    fix="read the earlier of the two hooks and reconstruct the later one",
                )
            return edit(carried.pop(), value.flatten(2)).to(value.dtype).view_as(value)

        replaced = hook.name
        with self._turn, self.bridge.hooks(fwd_hooks=[(source.name, read), (hook.name, replace)]):
            yield


def next_token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of each next token, in nats and in float32 whatever the logits' dtype.

    `[context, position, vocabulary]`, `[context, position]` -> `[context, position - 1]`; one context at
    a time, so that no second copy of all logits is held.
    """
    targets = tokens[:, 1:].to(logits.device).long()
    rows = [
        torch.nn.functional.cross_entropy(row[:-1].float(), target, reduction="none")
        for row, target in zip(logits, targets, strict=True)
    ]
    return torch.stack(rows)


def summed_loss_gradient(logits: Tensor, tokens: Tensor, length: Tensor) -> Tensor:
    """Gradient of the sum of all real next-token losses with respect to the logits, in their dtype.

    `[context, position, vocabulary]`, `[context, position]`, `[context]` -> the logits' shape, 0 where
    nothing real is predicted. Float32 and one context at a time, as `next_token_losses`.
    """
    gradient = torch.zeros_like(logits)
    for row, out, ids, n in zip(logits.detach(), gradient, tokens, length.tolist(), strict=True):
        real = row[:n].requires_grad_()
        with torch.enable_grad():
            loss = next_token_losses(real[None], ids[None, :n]).sum()
        out[:n] = torch.autograd.grad(loss, real)[0]
    return gradient


def _gradients(logits: Tensor, tokens: Tensor, length: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the summed loss with respect to the values that gave `logits`, flattened, by hook."""
    found: Sequence[Tensor | None] = [None] * len(values)
    if logits.requires_grad:
        outward = summed_loss_gradient(logits, tokens, length)
        found = torch.autograd.grad(logits, list(values.values()), outward, allow_unused=True)
    gradients: dict[str, Tensor] = {}
    for name, gradient in zip(values, found, strict=True):
        if gradient is None:
            raise SaelabError(
                f"the loss does not depend on hook '{name}'", where="hook", fix="leave it out, or loss_grad: false"
            )
        gradients[name] = gradient.flatten(2)
    return gradients


def load(spec: ModelSpec) -> LanguageModel:
    """Load a model from the demo assets, a directory, or the hub.

    Raises:
        SaelabError: it is not there, or cannot be loaded; says where it was looked for.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    from saelab.lm.assets import resolve
    from saelab.lm.shortcuts import shorten

    source = resolve(spec.name)
    device = resolve_device(spec.device)
    if device.type == "cpu":
        keep_freed_memory()  # a pass frees and asks for tens of MB in every layer: 7 % of its time here
    dtype = resolve_dtype(spec.dtype, device)
    with quiet_transformers(), _loading(spec.name):
        tokenizer = _tokenizer(source, spec.revision)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=spec.revision or "main", dtype=dtype, output_loading_info=True
        )
        model, report = loaded
        if report["missing_keys"]:
            raise ValueError(f"its weights lack {', '.join(sorted(report['missing_keys'])[:3])}")
        if max(tokenizer.get_vocab().values()) >= model.get_input_embeddings().num_embeddings:
            raise ValueError("its tokenizer has more ids than the model has embeddings")
        model.to(device)
        model.eval().requires_grad_(False)
        model.config.get_text_config().use_cache = False  # passes are of whole contexts: nobody reads keys and values
        bridge = TransformerBridge.boot_transformers(
            str(source),
            hf_model=model,
            tokenizer=_tokenizer(source, spec.revision),
            device=device,
            dtype=dtype,
        )
        bridge.requires_grad_(False)  # also the parameters that the bridge made by splitting others
        shorten(bridge)
    return LanguageModel(bridge, tokenizer, device=device, dtype=dtype, identity=_identity(spec, tokenizer, dtype))


def identity(spec: ModelSpec) -> dict[str, Any]:
    """What `load(spec)` would have as its `identity`, without its weights in memory.

    Raises:
        SaelabError: it is not there.
    """
    from transformers.utils.hub import cached_file

    from saelab.lm.assets import resolve

    with quiet_transformers(), _loading(spec.name):
        cached_file(resolve(spec.name), "config.json", revision=spec.revision)  # from then on the commit is known
    return _identity(spec, load_tokenizer(spec), resolve_dtype(spec.dtype, resolve_device(spec.device)))


def _identity(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> dict[str, Any]:
    from saelab.lm.assets import resolve

    return {
        "name": name_of(spec),
        "content": _content(resolve(spec.name), spec.revision),
        "tokenizer": _tokenizer_sha256(tokenizer)[:16],
        "dtype": str(dtype).removeprefix("torch."),
    }


def name_of(spec: ModelSpec) -> str:
    """What a model is called, wherever it lies: a directory by its own name."""
    return Path(spec.name).resolve().name if Path(spec.name).exists() else spec.name


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer alone."""
    from saelab.lm.assets import resolve

    with quiet_transformers(), _loading(spec.name):
        return _tokenizer(resolve(spec.name), spec.revision)


def _tokenizer(source: str | Path, revision: str | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, revision=revision or "main")


def _content(source: str | Path, revision: str | None) -> str:
    """What fixes the weights: hashes of a local directory's files, or the hub's commit."""
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".bin") or p.name == "config.json")
        return ";".join(f"{p.name}={sha256_file(p)[:16]}" for p in files)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(str(source), "config.json", revision=revision or "main")
    # The hub's cache keeps a snapshot in a directory named by its commit.
    return f"commit {Path(cached).parent.name}" if isinstance(cached, str) else f"revision {revision or 'main'}"


def _tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of the tokenizer's rules where it is a fast one, else of its vocabulary; and of the special ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return sha256_json([rules, sorted(tokenizer.all_special_ids), tokenizer.bos_token_id])


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except SaelabError:
        raise
    except Exception as error:  # loaders of many formats fail in as many ways
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SaelabError(
            f"this model cannot be loaded: {first}",
            where=f"model.name: {name}",
            fix="check the name and the connection, or give a local directory with config.json, "
            "safetensors and a tokenizer, or use the demo model (`saelab assets fetch`)",
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars or advice from transformers while inside."""
    import transformers

    bars = transformers.utils.logging.is_progress_bar_enabled()
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
