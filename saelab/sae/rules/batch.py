"""Rules with a budget per batch: for the batch as a whole, or for each latent over the batch.

Selection depends on what else is in the batch, so these rules are deployed as thresholds, calibrated on
training tokens as quantiles: a running mean of the smallest kept value is biased where quotas are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from saelab.errors import SaelabError, SettingError
from saelab.kernels import PerBatch, PerLatent, Support, top_k
from saelab.sae.affine import PreActivations
from saelab.sae.code import Seen
from saelab.sae.rules.base import SelectionRule, Step
from saelab.sae.rules.quotas import fit_zipf, whole_quotas
from saelab.sae.rules.threshold import Threshold

_UNKNOWN = -1.0
"""A threshold that has not been calibrated; real ones are never negative."""


class _BatchRule(SelectionRule):
    per_token = False

    threshold: Tensor

    def __init__(self, k: float):
        super().__init__()
        if k <= 0:
            raise SettingError("k", f"k must be positive, not {k}")
        self.k = k

    def check(self, n_latents: int) -> None:
        if self.k > n_latents:
            raise SettingError(
                "k", f"k = {self.k} is more than n_latents = {n_latents}", fix="lower k or widen the SAE"
            )

    def over_the_batch(self, n_tokens: int, n_latents: int) -> PerBatch:
        """The k * tokens largest entries."""
        return PerBatch(min(round(self.k * n_tokens), n_tokens * n_latents))

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.relu(values)

    def rescale(self, factor: Tensor) -> None:
        self.threshold.fill_(_UNKNOWN)  # others are the largest of a batch now

    def inference(self) -> Threshold:
        if not self.threshold.is_meta and bool((self.threshold == _UNKNOWN).any()):
            raise SaelabError(
                "this SAE selects over a batch and has no thresholds yet, so it has no per-token form",
                fix="call sae.calibrate(x) with training activations first",
            )
        return Threshold(self.threshold)


class BatchTopK(_BatchRule):
    """The k * tokens largest pre-activations of a batch, wherever they are; positive ones alone.

    Deployed as one threshold for all latents, at which k latents are active per calibration token.

    Source: BatchTopK (Bussmann et al. 2024, arXiv 2412.06410); Mutual Choice (arXiv 2411.02124).
    Deviation: the threshold is a quantile on training tokens, not a running mean of batch minima.
    """

    def __init__(self, k: float):
        super().__init__(k)
        self.register_buffer("threshold", torch.tensor(_UNKNOWN))

    def budget(self, seen: Seen, n_latents: int) -> PerBatch:
        return self.over_the_batch(len(seen.x), n_latents)

    @torch.no_grad()
    def calibrate(self, pre: PreActivations) -> None:
        budget = round(self.k * pre.n_tokens)
        best = torch.empty(0)
        for block in pre.by_tokens():
            few = min(round(3 * self.k * len(block)), block.numel())  # no block of tokens is three times as busy
            best = torch.cat([best.to(block), top_k(block.reshape(1, -1), few)[0][0]])
        self.threshold.fill_(_between(best, budget))


class FeatureChoice(_BatchRule):
    """Each latent keeps the tokens of the batch on which it is largest, as many as its quota; positive ones alone.

    Quotas are shares of the batch (`density` `[lat]`, with sum k), rounded by largest remainders. They are
    uniform; or, with `zipf`, fall over the latents: the first `mutual_frac` of training selects over the
    whole batch (Mutual Choice) and measures how often each latent fires; then a Zipf-Mandelbrot curve is
    fitted to that, and each latent gets the share of its rank. Deployed as one threshold per latent.

    Source: Feature Choice (arXiv 2411.02124). No official code exists; fitting the curve
    by least squares on a logarithmic scale, and the sudden change of phase, are ours.
    """

    RATE = 0.02
    """Weight of a batch in the running densities."""

    density: Tensor
    measured: Tensor
    chosen: Tensor

    def __init__(self, k: float, *, zipf: bool, mutual_frac: float):
        super().__init__(k)
        if not 0 <= mutual_frac < 1:
            raise SettingError("mutual_frac", f"a fraction of training below 1, found {mutual_frac}")
        if zipf and mutual_frac == 0:
            raise SettingError(
                "mutual_frac", "Zipf quotas are measured while training selects over the batch", fix="mutual_frac: 0.3"
            )
        self.zipf, self.mutual_frac = zipf, mutual_frac

    def check_batch(self, batch_tokens: int, n_latents: int) -> None:
        if self.k * batch_tokens < n_latents:
            raise SettingError(
                "k",
                f"impossible quotas: a batch has k * batch_tokens = {round(self.k * batch_tokens):,} places, and each "
                f"of {n_latents:,} latents needs one",
                fix=f"raise train.batch_tokens to {math.ceil(n_latents / self.k):,} or more, or raise k",
            )

    def prepare(self, n_latents: int) -> None:
        self.register_buffer("density", torch.full((n_latents,), min(self.k / n_latents, 1.0)))
        self.register_buffer("measured", torch.zeros(n_latents))
        self.register_buffer("chosen", torch.tensor(float(self.mutual_frac == 0)))  # 1: quotas stand
        self.register_buffer("threshold", torch.full((n_latents,), _UNKNOWN))

    def budget(self, seen: Seen, n_latents: int) -> PerBatch | PerLatent:
        if not self.chosen:
            return self.over_the_batch(len(seen.x), n_latents)
        return PerLatent(whole_quotas(self.density, len(seen.x)))

    @torch.no_grad()
    def adapt(self, step: Step) -> None:
        if self.chosen or step.code.n_tokens == 0:
            return
        fired = step.code.firing_counts().to(self.measured) / max(step.code.n_tokens, 1)
        self.measured.lerp_(fired, self.RATE)
        if step.progress >= self.mutual_frac:
            self._choose(step.code.n_tokens)

    def _choose(self, n_tokens: int) -> None:
        """From measured densities to quotas: the curve's share for each latent's rank."""
        if self.zipf:
            shares = fit_zipf(self.measured).densities(len(self.measured), float(self.k))
            order = self.measured.argsort(descending=True, stable=True)
            whole = whole_quotas(shares, n_tokens) / n_tokens  # what batches can give is what is deployed
            self.density[order] = whole.to(self.density)
        self.chosen.fill_(1.0)

    @torch.no_grad()
    def calibrate(self, pre: PreActivations) -> None:
        self.threshold.copy_(exceeded_by(self.density, pre).clamp_min(0.0))


def exceeded_by(density: Tensor, pre: PreActivations) -> Tensor:
    """`[lat]`: for each latent the value that a share `density[i]` of the tokens exceeds, at least one token."""
    wanted = density * pre.n_tokens
    out = torch.empty_like(density)
    for latents in groups_by_size(wanted.ceil().long()):
        rows = pre.of(latents)
        most = min(int(wanted[latents].max()) + 2, pre.n_tokens)
        ordered = top_k(rows, most)[0].sort(dim=1, descending=True).values
        place = wanted[latents].round().long().clamp(1, pre.n_tokens)[:, None]
        last = ordered.gather(1, place - 1)
        after = ordered.gather(1, place.clamp_max(most - 1))
        out[latents] = ((last + after) / 2)[:, 0].to(out)
    return out


_GROUP_LATENTS = 1024


def groups_by_size(sizes: Tensor) -> Iterator[Tensor]:
    """Latents in groups whose sizes differ little, at most `_GROUP_LATENTS` each: one top-k serves a group."""
    order = sizes.argsort(descending=True, stable=True)
    octave = sizes[order].clamp_min(1).double().log2().floor().long()
    _, counts = octave.unique_consecutive(return_counts=True)
    for group in order.split(counts.tolist()):
        yield from group.split(_GROUP_LATENTS)


def _between(values: Tensor, count: int) -> float:
    """A threshold that `count` of the values exceed; 0 where fewer are positive."""
    if len(values) <= count:
        return 0.0
    last, after = values.topk(count + 1).values[-2:].tolist()
    return max((last + after) / 2, 0.0)
