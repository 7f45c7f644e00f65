"""*Codebook*: the k rows nearest in direction, added up as they are."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.kernels import PerToken, select
from saelab.sae.code import Encoding, Seen, SparseCode
from saelab.sae.coders.base import Coder, check_n_latents


class Codebook(Coder):
    """`recon = sum of the k rows with the largest cosine to x`: values are 1, there are no coefficients.

    Source: codebook features (arXiv 2310.17230). There it sits inside a model that is fine-tuned
    with a straight-through gradient, behind a learned LayerNorm, and the official code takes the mean of
    the k rows; here it is the discrete, coefficient-free comparator of TopK on centred inputs, with the
    sum, and only the rows learn.
    """

    homogeneous = False

    def __init__(self, n_latents: int, k: int):
        super().__init__(centred=True)
        check_n_latents(n_latents)
        if not 1 <= k <= n_latents:
            raise SettingError("k", f"k lies between 1 and n_latents = {n_latents}, found {k}")
        self.k = k

    @property
    def bound_to_input(self) -> str | None:
        return "encodes with the decoder's own rows"

    def encode(self, seen: Seen) -> Encoding:
        with torch.no_grad():
            rows = torch.nn.functional.normalize(seen.W_dec, dim=1)
            screened = self.precision == "screened"
            support = select(seen.x, rows, rows.new_zeros(len(rows)), PerToken(self.k), screened=screened).support
        return Encoding(SparseCode(seen.x.new_ones(support.latents.numel()), support))

    def pre_activations(self, seen: Seen, latents: Tensor) -> Tensor:
        """Cosines."""
        return torch.cosine_similarity(seen.x[:, None], seen.W_dec[latents][None], dim=2)

    def inference(self, W_dec: Tensor) -> Self:
        self.precision = "exact"
        return self

    def fold(self, mean: Tensor, factor: float) -> None:
        pass  # a cosine has no scale
