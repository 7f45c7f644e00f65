"""Prompt families with answers and labels, for any tokenizer: what a model is asked, and what is known of it."""

from saelab.tasks.base import TASKS, Choices, Metric, Prompts, Split, Task, Tokenizer
from saelab.tasks.concepts import CONCEPTS, Labelled, Text
from saelab.tasks.measure import Answers, answer, check_competence

__all__ = [
    "CONCEPTS",
    "TASKS",
    "Answers",
    "Choices",
    "Labelled",
    "Metric",
    "Prompts",
    "Split",
    "Task",
    "Text",
    "Tokenizer",
    "answer",
    "check_competence",
]
