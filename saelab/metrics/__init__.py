"""Streaming accumulators: one formula each, shared by training and evaluation."""

from saelab.metrics.bootstrap import interval
from saelab.metrics.density import Density
from saelab.metrics.reconstruction import Reconstruction

__all__ = ["Density", "Reconstruction", "interval"]
