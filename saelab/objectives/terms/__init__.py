"""Loss terms, by name in `TERMS`: each turns one pass of an SAE over a batch into a scalar."""

from saelab.objectives.terms import auxiliary, reconstruction, sparsity
from saelab.objectives.terms.base import TERMS, Pass, Term

__all__ = ["TERMS", "Pass", "Term", "auxiliary", "reconstruction", "sparsity"]
