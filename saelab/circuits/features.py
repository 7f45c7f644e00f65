"""Which latents of a trained SAE carry what a task's answer depends on.

Source: Marks et al. 2024 (arXiv 2403.19647): attribution patching of SAE latents, the SAE's error being a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Cost, Report, quiet
from saelab.errors import SaelabError
from saelab.lm.mask import Mask
from saelab.lm.model import Hook, LanguageModel
from saelab.sae import SAE


@dataclass(frozen=True, eq=False)
class FeatureScores:
    """Estimated losses of score where a part of an activation is patched, means over pairs.

    Attributes:
        latents: `[latent]` float32.
        error: of all that the SAE leaves unexplained; masked: of positions that the mask leaves out, whole.
        total: of the whole activation; latents, error and masked sum to it.
        clean, corrupted: `[latent]` mean of each latent's largest value in a prompt.
    """

    latents: Tensor
    error: float
    masked: float
    total: float
    clean: Tensor
    corrupted: Tensor
    cost: Cost

    def strongest(self, n: int) -> list[int]:
        """The latents of the largest absolute scores."""
        return self.latents.abs().sort(descending=True, stable=True).indices[:n].tolist()

    def carrying(self, share: float) -> int:
        """How many of the strongest latents have so much of the sum of all absolute scores."""
        strengths = self.latents.abs().double().sort(descending=True).values
        return int((strengths.cumsum(0) < share * strengths.sum()).sum()) + 1


def attribute_features(
    lm: LanguageModel,
    sae: SAE,
    hook: Hook,
    mask: Mask,
    pairs: Pairs,
    *,
    batch_prompts: int = 16,
    report: Report = quiet,
) -> FeatureScores:
    """`(clean - corrupted) value of a latent . its direction . gradient of the clean run's score`, summed over
    positions.

    Args:
        sae: in inference form; reads and reconstructs `hook`.

    Raises:
        SaelabError: it reconstructs another hook than it reads.
    """
    check_reads_itself(sae)
    passes = Passes(lm, pairs)
    latents = torch.zeros(sae.n_latents)
    most = torch.zeros(2, sae.n_latents)
    error = masked = total = 0.0
    done = 0
    for rows, some in pairs.batches(batch_prompts):
        corrupted = passes.record(some.corrupted, [hook.name]).values[hook.name].flatten(2).float()
        carried, slopes = passes.gradients(some.clean, passes.first_streams(some.clean), [hook.name])
        clean, slope = carried.values[hook.name].flatten(2).float(), slopes[hook.name].flatten(2).float()
        keep = mask.keep(some.clean.tokens, hook.name, clean) & mask.keep(some.corrupted.tokens, hook.name, corrupted)
        whole = ((clean - corrupted) * slope).sum(2)
        total += float(whole.sum())
        masked += float(whole[~keep].sum())
        says = [coded(sae, x[keep]) for x in (clean, corrupted)]
        along = slope[keep] @ sae.W_dec.T.float()  # [tok, latent]
        gained = ((says[0] - says[1]) * along).sum(0).cpu()
        latents += gained
        error += float(whole[keep].sum()) - float(gained.double().sum())
        for side, code in zip(most, says, strict=True):
            side += _largest(code, keep)
        done += len(rows)
        report(done, len(pairs))
    n = len(pairs)
    return FeatureScores(latents / n, error / n, masked / n, total / n, most[0] / n, most[1] / n, passes.cost.stop())


def patch_features(
    lm: LanguageModel, sae: SAE, hook: Hook, mask: Mask, pairs: Pairs, latents: Sequence[int], batch_prompts: int = 16
) -> Tensor:
    """`[latent]`: the true loss of score where each of some latents has its corrupted value and all else stays, the
    SAE's error included: what `attribute_features` estimates."""
    check_reads_itself(sae)
    passes = Passes(lm, pairs)
    loss = torch.zeros(len(latents), len(pairs))
    for rows, some in pairs.batches(batch_prompts):
        values = [passes.record(prompts, [hook.name]) for prompts in (some.clean, some.corrupted)]
        clean, corrupted = (found.values[hook.name].flatten(2).float() for found in values)
        keep = mask.keep(some.clean.tokens, hook.name, clean) & mask.keep(some.corrupted.tokens, hook.name, corrupted)
        gap = coded(sae, clean[keep]) - coded(sae, corrupted[keep])
        for row, latent in zip(loss, latents, strict=True):
            shift = torch.zeros_like(clean)
            shift[keep] = gap[:, latent, None] * sae.W_dec[latent].float()
            edit = (hook.name, lambda value, hook, shift=shift: value - shift.view_as(value).to(value.dtype))
            row[rows] = values[0].scores - passes.edited(some.clean, [edit])
    return loss.mean(1)


def check_reads_itself(sae: SAE) -> None:
    """Raise where an SAE reconstructs another hook than it reads.

    Raises:
        SaelabError: it is a transcoder.
    """
    if sae.identity.transcoder:
        raise SaelabError(
            "a transcoder explains another hook than it reads, and this needs what both carry",
            where="sae",
            fix="take an SAE that reconstructs its own input",
        )


@torch.no_grad()
def coded(sae: SAE, x: Tensor) -> Tensor:
    """`[tok, latent]`."""
    return sae.encode(x).to_dense().float()


def _largest(code: Tensor, keep: Tensor) -> Tensor:
    """`[latent]`: the sum over prompts of the largest value in each; `keep` is `[row, position]`."""
    parts = code.split(keep.sum(1).tolist())
    return torch.stack([part.amax(0) for part in parts if len(part)]).sum(0).cpu()
