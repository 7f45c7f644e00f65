"""Sparse autoencoders as parts: coders, selection rules, a decoder, and the one `SAE` class.

Needs only torch and safetensors. See README.md beside this file for the decisions.
"""

from saelab.sae.code import SparseCode
from saelab.sae.model import SAE, Scaling
from saelab.sae.variants import VARIANTS, Blueprint, build, variant

__all__ = ["SAE", "VARIANTS", "Blueprint", "Scaling", "SparseCode", "build", "variant"]
