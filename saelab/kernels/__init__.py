"""Sparse primitives under every SAE. Needs only torch. See `ops` for the formulas."""

from saelab.kernels.ops import gather, latent_sum, sampled_dot, spread, top_k, transposed_scatter
from saelab.kernels.support import Support

__all__ = ["Support", "gather", "latent_sum", "sampled_dot", "spread", "top_k", "transposed_scatter"]
