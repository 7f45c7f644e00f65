"""Selection rules: which latents are in a code, and with what value. Papers stand in the docstrings."""

from saelab.sae.rules.base import SelectionRule, Step
from saelab.sae.rules.batch import BatchTopK, FeatureChoice
from saelab.sae.rules.threshold import JumpReLU, ReLU, Threshold
from saelab.sae.rules.token import AbsTopK, FeatureActivation, GradientTopK, TopK

__all__ = [
    "AbsTopK",
    "BatchTopK",
    "FeatureActivation",
    "FeatureChoice",
    "GradientTopK",
    "JumpReLU",
    "ReLU",
    "SelectionRule",
    "Step",
    "Threshold",
    "TopK",
]
