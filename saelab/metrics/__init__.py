"""Streaming accumulators: one formula each, shared by training and evaluation."""

from saelab.metrics.bootstrap import interval
from saelab.metrics.density import Density
from saelab.metrics.reconstruction import Reconstruction, explained_by_token, explained_variance

__all__ = ["Density", "Reconstruction", "explained_by_token", "explained_variance", "interval"]
