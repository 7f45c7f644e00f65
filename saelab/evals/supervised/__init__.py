"""An SAE beside dictionaries that were told what to look for, on a task whose attributes are known."""

from saelab.evals.supervised.evaluator import Supervised

__all__ = ["Supervised"]
