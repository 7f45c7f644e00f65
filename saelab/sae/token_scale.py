"""Each token's own scale, taken out before encoding and put back behind decoding.

saelab's SAEs have one scale for all tokens, which is folded into their weights. Some from elsewhere measure every
token by itself, and then no weights can take it up: their biases are in units of the token's own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

_EPSILON = 1e-5


@dataclass(frozen=True, eq=False)
class TokenScale:
    """`(x - shift) / down` goes in; `recon * up + shift` comes out. All `[tok, 1]`."""

    shift: Tensor
    down: Tensor
    up: Tensor

    def take_out(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.down

    def put_back(self, recon: Tensor) -> Tensor:
        return recon * self.up + self.shift


def standard(x: Tensor) -> TokenScale:
    """Mean 0 and standard deviation 1 over the width, nearly: divided by `std + 1e-5`, multiplied by `std`.

    Source: the official code of Gao et al. 2024 (arXiv 2406.04093); SAELens' `layer_norm` is the same.
    """
    mean = x.mean(dim=1, keepdim=True)
    deviation = (x - mean).std(dim=1, keepdim=True)
    return TokenScale(mean, deviation + _EPSILON, deviation)


def length(x: Tensor) -> TokenScale:
    """Norm sqrt(d); a token of norm 0 stays as it is. SAELens' `constant_norm_rescale`."""
    norm = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
    norm = norm.where(norm > 0, 1.0)
    return TokenScale(norm.new_zeros(norm.shape), norm, norm)


TOKEN_SCALES: Mapping[str, Callable[[Tensor], TokenScale]] = {"standard": standard, "length": length}
"""By the names in `Identity.token_scale`."""
