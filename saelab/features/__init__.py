"""The feature index: what each latent of an SAE fires on and writes, built once and read by the browser."""

from saelab.features.bundle import Bundle, Context, Example, Feature
from saelab.features.spec import IndexSpec

__all__ = ["Bundle", "Context", "Example", "Feature", "IndexSpec"]
