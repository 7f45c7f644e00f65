"""Coders: from activations to a sparse code. A module each; most variants are `OneStep` with a rule of their own."""

from saelab.sae.coders.base import Coder, Precision, RuleCoder
from saelab.sae.coders.codebook import Codebook
from saelab.sae.coders.gated import Gated
from saelab.sae.coders.group_bias import GroupBias
from saelab.sae.coders.one_step import OneStep
from saelab.sae.coders.pursuit import Pursuit
from saelab.sae.coders.sampled import Sampled

__all__ = ["Codebook", "Coder", "Gated", "GroupBias", "OneStep", "Precision", "Pursuit", "RuleCoder", "Sampled"]
