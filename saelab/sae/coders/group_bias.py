"""*GroupBias*: a tied encoder whose biases are steered towards chosen firing frequencies, not learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saelab.errors import SaelabError, SettingError
from saelab.kernels import Above, sampled_dot, spread
from saelab.sae.affine import PreActivations
from saelab.sae.code import Encoding, Seen, SparseCode
from saelab.sae.coders.base import Coder, RuleCoder, check_n_latents
from saelab.sae.coders.one_step import OneStep, select
from saelab.sae.rules import ReLU, Step
from saelab.sae.rules.batch import exceeded_by

_NEVER = 1e-6
"""A firing fraction below this counts as dead."""
_TIED = 1e-4
"""Rows that differ by less are multiples of each other."""


class _Watching(ReLU):
    """ReLU that remembers, while training, how often each latent fires and how high it gets."""

    fired: Tensor
    peak: Tensor
    tokens: Tensor

    def prepare(self, n_latents: int) -> None:
        self.register_buffer("fired", torch.zeros(n_latents))
        self.register_buffer("peak", torch.zeros(n_latents))
        self.register_buffer("tokens", torch.zeros(()))

    def budget(self, seen: Seen, n_latents: int) -> Above:
        if not self.training or len(seen.x) == 0:
            return super().budget(seen, n_latents)
        self.tokens += len(seen.x)
        return Above(seen.x.new_zeros(()), self._observe)

    def _observe(self, pre: Tensor, latents: slice) -> None:
        self.fired[latents] += (pre > 0).sum(0)
        peak = self.peak[latents]
        torch.maximum(peak, pre.amax(0).to(peak), out=peak)

    def forget(self) -> None:
        for buffer in (self.fired, self.peak, self.tokens):
            buffer.zero_()

    def inference(self) -> ReLU:
        return ReLU()


class GroupBias(RuleCoder):
    """`z = a relu(W_dec x + b)`: encoder rows are the decoder's unit rows, `b` follows firing frequencies.

    Latents form groups with target frequencies in geometric progression. Once in `period_tokens`, with
    `p` the fraction of tokens on which a latent fired and `r` its largest pre-activation (0 if negative):

        p > target:  b <- max(b - rate r, -bound)
        p < 1e-6:    b <- min(b + rate mean(r > 0 in the group), 0)

    Source: group bias adaptation (arXiv 2506.14002) as its notes and reviews give it; the
    official code could not be read. Its experiments use a JumpReLU whose form is not clear from them; this
    is the ReLU of its theory. Deviations: `bound` is 1 for inputs of
    norm 1 there and is scaled to the input's norm, sqrt(d), here; `a` is kept positive; with `warm_start`
    biases begin where the first batch would fire at the target frequencies, since from 0 they move slowly.

    Attributes:
        b_enc: `[n_latents]` buffer; target: `[n_latents]` buffer; log_scale: `[n_latents]`, `log a`.
    """

    b_enc: Tensor
    target: Tensor
    started: Tensor
    rule: _Watching

    def __init__(
        self, d_model: int, target: Tensor, *, rate: float, period_tokens: int, bound: float, warm_start: bool
    ):
        super().__init__(_Watching(), len(target), centred=True)
        for key, value in (("rate", rate), ("period_tokens", period_tokens), ("bound", bound)):
            if value <= 0:
                raise SettingError(key, f"must be positive, found {value}")
        self.rate, self.period_tokens = rate, period_tokens
        self.bound = bound * d_model**0.5
        self.log_scale = nn.Parameter(torch.zeros(len(target)))
        self.register_buffer("b_enc", torch.zeros(len(target)))
        self.register_buffer("target", target)
        self.register_buffer("started", torch.tensor(float(not warm_start)))

    @property
    def bound_to_input(self) -> str | None:
        return "encodes with the decoder's own rows"

    def encode(self, seen: Seen) -> Encoding:
        if self.training and len(seen.x) and not self.started:
            self._start(seen)
        found = select(self.rule, seen, seen.W_dec, self.b_enc, screened=self.precision == "screened")
        support = found.support
        pre = sampled_dot(seen.x, seen.W_dec, support, bias=self.b_enc, known=found.values)
        return Encoding(SparseCode(self.rule.activate(pre, support) * spread(self.log_scale.exp(), support), support))

    def pre_activations(self, seen: Seen, latents: Tensor) -> Tensor:
        return torch.addmm(self.b_enc[latents], seen.x, seen.W_dec[latents].T)

    @torch.no_grad()
    def _start(self, seen: Seen) -> None:
        plain = PreActivations(seen.x, seen.W_dec, torch.zeros_like(self.b_enc))
        self.b_enc.copy_(-exceeded_by(self.target, plain)).clamp_(-self.bound, 0.0)
        self.started.fill_(1.0)

    @torch.no_grad()
    def adapt(self, step: Step, W_dec: Tensor) -> None:
        seen = self.rule
        if seen.tokens < self.period_tokens:
            return
        frequency = seen.fired / seen.tokens
        lowered = (self.b_enc - self.rate * seen.peak).clamp_min(-self.bound)
        raised = (self.b_enc + self.rate * self._group_peaks(seen.peak)).clamp_max(0.0)
        self.b_enc.copy_(torch.where(frequency > self.target, lowered, self.b_enc))
        self.b_enc.copy_(torch.where(frequency < _NEVER, raised, self.b_enc))
        seen.forget()

    def _group_peaks(self, peak: Tensor) -> Tensor:
        """`[lat]`: the mean positive peak of each latent's group, 0 where there is none."""
        group = self.target.unique(return_inverse=True)[1]
        total = torch.bincount(group, weights=peak)
        count = torch.bincount(group, weights=(peak > 0).to(peak))
        return (total / count.clamp_min(1))[group].to(peak)

    def inference(self, W_dec: Tensor) -> OneStep:
        scale = self.log_scale.exp()
        n_latents, d_model = W_dec.shape
        plain = OneStep(d_model, n_latents, self.rule.inference(), centred=True)
        plain.W_enc = nn.Parameter(W_dec.detach() * scale.detach()[:, None])
        plain.b_enc = nn.Parameter(self.b_enc * scale.detach())
        return plain

    @property
    def deployed_as(self) -> type[OneStep]:
        return OneStep

    def adopt(self, other: Coder, W_dec: Tensor) -> None:
        """Take the inference form apart again.

        Raises:
            SaelabError: its encoder's rows are no positive multiples of the decoder's.
        """
        assert isinstance(other, OneStep)
        scale = torch.linalg.vecdot(other.W_enc, W_dec) / W_dec.square().sum(1)
        missed = (other.W_enc - scale[:, None] * W_dec).norm() / other.W_enc.norm()
        if float(missed) > _TIED or not bool((scale > 0).all()):
            raise SaelabError("its encoder's rows are not its decoder's, which this variant encodes with")
        self.log_scale.copy_(scale.log())
        self.b_enc.copy_(other.b_enc / scale)
        self.started.fill_(1.0)


def group_targets(n_latents: int, n_groups: int, highest: float, lowest: float, l0: float | None) -> Tensor:
    """`[lat]` target frequencies: `n_groups` groups from `highest` to `lowest` in geometric progression; scaled
    to add up to `l0` where that is given.

    Raises:
        SettingError: the frequencies are none, or the scaled ones would pass 1.
    """
    check_n_latents(n_latents)
    if not 0 < highest <= 1:
        raise SettingError("highest", f"a frequency above 0 and at most 1, found {highest}")
    if not 0 < lowest <= highest:
        raise SettingError("lowest", f"above 0 and at most highest = {highest}, found {lowest}")
    if l0 is not None and l0 <= 0:
        raise SettingError("l0", f"must be positive, found {l0}")
    if not 1 <= n_groups <= n_latents:
        raise SettingError("groups", f"between 1 and n_latents = {n_latents}, found {n_groups}")
    steps = torch.linspace(0, 1, n_groups, dtype=torch.float64, device="cpu")
    group = torch.arange(n_latents, device="cpu") * n_groups // n_latents
    target = (highest * (lowest / highest) ** steps)[group]
    if l0 is not None:
        target = target * (l0 / target.sum())
    if float(target.max()) > 1:
        raise SettingError(
            "l0", f"{l0} active latents would need a frequency above 1 in the first group", fix="lower l0 or highest"
        )
    return target.float()
