"""*Sampled*: the encoder gives a distribution, training draws from it, inference takes its mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saelab.errors import SettingError
from saelab.sae.code import Encoding, Seen, SparseCode
from saelab.sae.coders.one_step import OneStep
from saelab.sae.rules import SelectionRule

_LOG_VAR_RANGE = (-6.0, 2.0)
_LOG_VAR_START = -2.0


class Sampled(OneStep):
    """`z = rule(mu + sigma eps)` in training, `rule(mu)` otherwise, with `mu = W_enc x + b_enc`.

    sigma is `noise` for all, or, where that is None, learned: a second affine head gives the logarithm of
    the variance, clamped to [-6, 2]. The noise comes before the rule, whose support the gradient shares.
    A KL sees the whole of `mu`, so training holds it as a dense `[tok, lat]` block.

    Channels: `mean` `[tok, lat]`; `log_var` `[tok, lat]`, or `[]` where the noise is fixed. Without noise
    there is no variance, and no `log_var`.

    Source: variational SAEs (arXiv 2509.22994). Of the official code, whose versions differ, this takes the
    unconstrained mean. Deviations: its fixed variance draws nothing, here it does; its TopK ranks samples by
    magnitude and keeps their sign, here the base rule decides.

    Attributes:
        W_var, b_var: of the second head, where the variance is learned.
    """

    def __init__(self, d_model: int, n_latents: int, rule: SelectionRule, *, centred: bool, noise: float | None):
        super().__init__(d_model, n_latents, rule, centred=centred)
        if noise is not None and noise < 0:
            raise SettingError("noise", f"must not be negative, found {noise}")
        self.noise = noise
        if noise is None:
            self.W_var = nn.Parameter(torch.zeros(n_latents, d_model))
            self.b_var = nn.Parameter(torch.full((n_latents,), _LOG_VAR_START))

    @property
    def provides(self) -> frozenset[str]:
        variance = frozenset() if self.noise == 0 else frozenset({"log_var"})
        return self.rule.provides | {"mean"} | variance

    def encode(self, seen: Seen) -> Encoding:
        if not self.training:
            return super().encode(seen)
        mean = torch.addmm(self.b_enc, seen.x, self.W_enc.T)
        log_var = self._log_var(seen.x)
        sample = mean if log_var is None else mean + (log_var / 2).exp() * torch.randn_like(mean)
        with torch.no_grad():
            support = self.rule.candidates(sample, seen)
        values = sample[support.rows, support.latents[: support.nnz].long()]
        channels = {"mean": mean, **self.rule.channels(values, support)}
        if log_var is not None:
            channels["log_var"] = log_var
        return Encoding(SparseCode(self.rule.activate(values, support), support), channels)

    def _log_var(self, x: Tensor) -> Tensor | None:
        if self.noise is None:
            return torch.addmm(self.b_var, x, self.W_var.T).clamp(*_LOG_VAR_RANGE)
        return None if self.noise == 0 else x.new_tensor(self.noise).square().log()

    @property
    def deployed_as(self) -> type[OneStep]:
        return OneStep

    def inference(self, W_dec: Tensor) -> OneStep:
        n_latents, d_model = self.W_enc.shape
        plain = OneStep(d_model, n_latents, self.rule.inference(), centred=self.centred)
        plain.W_enc, plain.b_enc = self.W_enc, self.b_enc
        return plain
