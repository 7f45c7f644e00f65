"""Sparse primitives under every SAE, and the encoder that feeds them. Needs only torch. See `ops` for the formulas."""

from saelab.kernels.budgets import Above, Budget, PerBatch, PerLatent, PerToken
from saelab.kernels.encoding import Selected, select, select_from
from saelab.kernels.ops import gather, latent_sum, sampled_dot, spread, top_k, transposed_scatter
from saelab.kernels.support import Support

__all__ = [
    "Above",
    "Budget",
    "PerBatch",
    "PerLatent",
    "PerToken",
    "Selected",
    "Support",
    "gather",
    "latent_sum",
    "sampled_dot",
    "select",
    "select_from",
    "spread",
    "top_k",
    "transposed_scatter",
]
