"""Loss terms and the objective that sums them."""

from saelab.objectives.objective import Objective
from saelab.objectives.terms import TERMS, Pass, Term

__all__ = ["TERMS", "Objective", "Pass", "Term"]
