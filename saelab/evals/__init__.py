"""Evaluators: one module each, a registry, a runner that writes `eval.json`."""

from saelab.evals.base import EVALUATORS, Evaluator, Result, Subject
from saelab.evals.runner import evaluate

__all__ = ["EVALUATORS", "Evaluator", "Result", "Subject", "evaluate"]
