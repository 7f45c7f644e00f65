"""saelab: train, measure and browse sparse autoencoders on language-model activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from saelab.sae import SAE, SparseCode

__all__ = ["SAE", "SparseCode", "__version__"]


def __getattr__(name: str) -> Any:
    """`saelab.SAE` and `saelab.SparseCode`, imported when first asked for."""
    if name in ("SAE", "SparseCode"):
        from saelab import sae

        return getattr(sae, name)
    raise AttributeError(f"module 'saelab' has no attribute '{name}'")
