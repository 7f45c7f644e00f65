"""Evaluators: one module each, a registry, a runner that writes `eval.json`."""

from saelab.evals.base import EVALUATORS, Chart, Evaluator, Result, Subject, Table
from saelab.evals.runner import evaluate

__all__ = ["EVALUATORS", "Chart", "Evaluator", "Result", "Subject", "Table", "evaluate"]
