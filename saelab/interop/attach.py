"""An SAE inside somebody else's run of a language model, by `SAE.attached`.

    with sae.attached(model, "model.layers.10") as seen:
        logits = model(tokens).logits
    seen.code

`model` is one of transformers', of TransformerLens', or saelab's. What the SAE makes of the hook's activation flows
on in its place, with gradients; positions that its mask leaves out keep their own activation, as in evaluation.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saelab.errors import SaelabError, did_you_mean
from saelab.interop.origin import Origin
from saelab.lm.mask import Mask
from saelab.lm.splice import Change
from saelab.sae import SAE, SparseCode


@dataclass
class Attached:
    """What an attached SAE made of the model's latest pass; None before there was one.

    Attributes:
        code: of the positions that were encoded, one after another, before any change.
        keep: `[batch, position]`, which those are.
    """

    code: SparseCode | None = None
    keep: Tensor | None = None


@contextmanager
def attached(
    sae: SAE,
    model: Any,
    hook: str | None = None,
    target: str | None = None,
    *,
    error_term: bool = False,
    change: Change | None = None,
    mask: Mask | None = None,
) -> Iterator[Attached]:
    """While inside, the SAE stands in for an activation of `model`; see `SAE.attached`."""
    if sae.identity.form != "inference":
        raise SaelabError("an SAE in training form reads scaled activations", fix="attach sae.inference(...)")
    model = getattr(model, "bridge", model)  # of saelab's own LanguageModel
    origin, mask = Origin.of(sae.identity), mask or own_mask(sae)
    source = _known(hook or origin.hook, "hook")
    target = _known(target or origin.target_hook, "target") if sae.identity.transcoder else source
    seen, tokens = Attached(), _Tokens()
    read: list[Tensor] = []

    def note(value: Tensor) -> None:
        read[:] = [value]

    def replace(value: Tensor) -> Tensor:
        if not read:
            raise SaelabError(
                f"'{source}' comes after '{target}' in the model, so that nothing there can be made of it",
                where="SAE.attached",
            )
        x = read.pop()
        keep = tokens.kept(mask, _limited(mask, source, origin.hook), x)
        keep &= tokens.kept(mask, _limited(mask, target, origin.target_hook), value)
        seen.keep = keep
        seen.code, new = _made(sae, x[keep], value[keep], change, error_term=error_term)
        edited = value.clone()
        edited[keep] = new.to(value)
        return edited

    with ExitStack() as stack:
        stack.enter_context(tokens.noted(model))
        stack.enter_context(_hooked(model, source, note))
        stack.enter_context(_hooked(model, target, replace))
        yield seen


def own_mask(sae: SAE) -> Mask:
    """Which positions the SAE was trained on; every one where it does not say so.

    Raises:
        SaelabError: what it says is no mask.
    """
    policy = sae.identity.provenance.get("mask")
    if policy is None:
        return Mask.everything()
    try:
        return Mask.from_json(policy)
    except (KeyError, TypeError, ValueError) as error:
        raise SaelabError(
            "what this SAE says of the positions it was trained on cannot be read", fix="pass mask=Mask(...)"
        ) from error


def _limited(mask: Mask, name: str, own: str | None) -> str:
    """By which name the mask knows a hook: the one it was asked for by, or the SAE's own."""
    return own if own is not None and name not in mask.norm_limits else name


def _known(name: str | None, what: str) -> str:
    if name is None:
        raise SaelabError(f"this SAE does not say which {what} it has", where="SAE.attached", fix=f"name a {what}")
    return name


def _made(sae: SAE, x: Tensor, value: Tensor, change: Change | None, *, error_term: bool) -> tuple[SparseCode, Tensor]:
    """The code of `[tok, d_in]`, and what takes the place of `[tok, d_out]`."""
    x, value = (part.to(sae.W_dec.device).float() for part in (x, value))
    code = sae.encode(x)
    plain = sae.reconstruct(x, code)
    new = plain if change is None else sae.reconstruct(x, change(code))
    return code, new + (value - plain).detach() if error_term else new


class _Tokens:
    """The token ids of the pass that is running, and where in its context each of them stands."""

    def __init__(self) -> None:
        self._ids: Tensor | None = None
        self._padding: Tensor | None = None
        self._before = 0

    @contextmanager
    def noted(self, model: Any) -> Iterator[None]:
        """While inside, they are read from what `model` and its embedding are called with."""
        whole: nn.Module = getattr(model, "original_model", model)
        names = inspect.signature(whole.forward)

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = dict(names.bind_partial(*args, **kwargs).arguments)
            given |= given.pop("kwargs", {})
            cache = given.get("past_key_values")
            self._ids, self._padding = None, given.get("attention_mask")
            self._before = 0 if cache is None else int(cache.get_seq_length())

        def embed(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._ids = args[0] if args else next(iter(kwargs.values()), None)

        handles = [
            whole.register_forward_pre_hook(enter, with_kwargs=True),
            _embedding(whole).register_forward_pre_hook(embed, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def kept(self, mask: Mask, hook: str, value: Tensor) -> Tensor:
        """`[batch, position]`: which positions of `[batch, position, d_hook]` the mask keeps."""
        ids = self._ids
        if ids is None or ids.shape != value.shape[:2]:
            if mask.first_position or mask.special:
                raise SaelabError(
                    "this SAE leaves out some tokens, and the model was not given as many tokens as the hook carries "
                    "activations",
                    where="SAE.attached",
                    fix="run the model on token ids, or pass mask=Mask.everything() of saelab.lm.mask",
                )
            ids = torch.zeros(value.shape[:2], dtype=torch.long, device=value.device)
        padding = self._padding
        if padding is None or padding.shape != (len(ids), self._before + ids.shape[1]):  # none, or of pairs of tokens
            place = torch.arange(self._before, self._before + ids.shape[1], device=ids.device).expand_as(ids)
            return mask.keep(ids, hook, value, place)
        real = padding.to(ids.device).bool()
        place = real.long().cumsum(1) - 1
        new = slice(self._before, None)
        return mask.keep(ids, hook, value, place[:, new]) & real[:, new].to(value.device)


def _embedding(model: Any) -> nn.Module:
    """What turns ids into vectors."""
    return model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else model.embed


Edit = Callable[[Tensor], Tensor | None]
"""Of `[batch, position, d_hook]`; None leaves it as it is."""


@contextmanager
def _hooked(model: Any, name: str, edit: Edit) -> Iterator[None]:
    """While inside, `edit` sees what the hook carries, and what it returns flows on."""

    def flat(value: Tensor) -> Tensor | None:
        edited = edit(value.flatten(2))
        return None if edited is None else edited.view_as(value)

    if hasattr(model, "hook_dict"):  # TransformerLens
        if name not in model.hook_dict:
            raise _unknown(name, model.hook_dict)
        with model.hooks(fwd_hooks=[(name, lambda value, hook: flat(value))]):
            yield
        return
    module, before = _module(model, name)
    register = _before if before else _behind
    handle = register(module, flat)
    try:
        yield
    finally:
        handle.remove()


def _behind(module: nn.Module, edit: Edit) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return edit(output)
        edited = edit(output[0])
        return None if edited is None else (edited, *output[1:])

    return module.register_forward_hook(hook)


def _before(module: nn.Module, edit: Edit) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        key = "hidden_states"
        edited = edit(args[0] if args else kwargs[key])
        if edited is None:
            return None
        return ((edited, *args[1:]), kwargs) if args else (args, {**kwargs, key: edited})

    return module.register_forward_pre_hook(hook, with_kwargs=True)


_RESIDUAL = re.compile(r"blocks\.(\d+)\.(hook_resid_pre|hook_in|hook_resid_post|hook_out)")


def _module(model: nn.Module, name: str) -> tuple[nn.Module, bool]:
    """The module of that path, or the block of TransformerLens' name; and whether its input is meant."""
    modules = dict(model.named_modules())
    if name in modules:
        return modules[name], False
    found = _RESIDUAL.fullmatch(name)
    blocks = _blocks(model) if found else None
    if found and blocks is not None and int(found[1]) < len(blocks):
        return blocks[int(found[1])], found[2] in ("hook_resid_pre", "hook_in")
    raise _unknown(name, modules)


def _blocks(model: Any) -> nn.ModuleList | None:
    """The list of the model's blocks: the outermost that is as long as its configuration says."""
    layers = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = (part for part in model.modules() if isinstance(part, nn.ModuleList))
    return next((part for part in lists if len(part) == layers), None)


def _unknown(name: str, known: Any) -> SaelabError:
    return SaelabError(
        f"this model has no hook '{name}'",
        where="SAE.attached",
        fix=did_you_mean(name, known) or "name a module by its path, such as model.layers.10, and its output is meant",
    )
