"""Which heads the latents of an SAE get what they say from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saelab.circuits.anatomy import stream_hook, z_hook
from saelab.circuits.features import check_reads_itself, coded
from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes
from saelab.circuits.patching import merged
from saelab.circuits.scores import Report, quiet
from saelab.lm.mask import Mask
from saelab.lm.model import Hook, LanguageModel
from saelab.lm.resume import NamedHook
from saelab.sae import SAE

Heads = Sequence[tuple[int, int]]


def feed(
    lm: LanguageModel,
    sae: SAE,
    hook: Hook,
    mask: Mask,
    pairs: Pairs,
    heads: Heads,
    latents: Sequence[int],
    *,
    batch_prompts: int = 16,
    report: Report = quiet,
) -> Tensor:
    """`[head, latent]` float32: of what a latent adds to the score in the clean run, how much is lost where a head
    carries what it carries in the corrupted run, and all up to the hook follows: `(clean - patched) value . direction .
    gradient of the clean run's score`, summed over positions, mean over pairs. 0 for heads behind the hook.

    The latent's change is exact, and what it is worth is estimated as `attribute_features` does.

    Raises:
        SaelabError: the SAE reconstructs another hook than it reads.
    """
    check_reads_itself(sae)
    passes = Passes(lm, pairs)
    found = torch.zeros(len(heads), len(latents))
    layers = sorted({layer for layer, _ in heads})
    done, chosen = 0, list(latents)
    for rows, some in pairs.batches(batch_prompts):
        streams = [stream_hook(layer) for layer in layers]
        carried = passes.record(some.clean, [*streams, hook.name]).values
        instead = passes.record(some.corrupted, [z_hook(layer) for layer in layers]).values
        _, slopes = passes.gradients(some.clean, passes.first_streams(some.clean), [hook.name])
        clean = carried[hook.name].flatten(2).float()
        keep = mask.keep(some.clean.tokens, hook.name, clean)
        along = slopes[hook.name].flatten(2).float()[keep] @ sae.W_dec[chosen].T.float()  # [tok, latent]
        whole = coded(sae, clean[keep])[:, chosen]
        for row, (layer, head) in zip(found, heads, strict=True):
            if hook.layer is not None and layer > hook.layer:
                continue
            seen: dict[str, Tensor] = {}
            edits = [_head_from(layer, head, instead[z_hook(layer)]), _keeping(hook.name, seen)]
            passes.rerun(some.clean, carried[stream_hook(layer)], layer, edits)
            if hook.name not in seen:  # within its layer, the hook comes before the head
                continue
            patched = coded(sae, seen[hook.name].flatten(2).float()[keep])[:, chosen]
            row += ((whole - patched) * along).sum(0).cpu() / len(pairs)
        done += len(rows)
        report(done, len(pairs))
    return found


def _head_from(layer: int, head: int, instead: Tensor) -> NamedHook:
    """A hook with which one head carries `[row, position, head, d_head]`."""

    def edit(value: Tensor, hook: object) -> Tensor:
        edited = value.clone()
        edited[:, :, head] = merged(value[:, :, head], instead[:, :, head])
        return edited

    return z_hook(layer), edit


def _keeping(name: str, into: dict[str, Tensor]) -> NamedHook:
    return name, lambda value, hook: into.update({name: value})
