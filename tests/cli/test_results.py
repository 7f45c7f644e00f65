"""What is printed at the end of an evaluation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from saelab.cli.results import explain
from saelab.training.run_directory import RunDirectory


def shown(evaluations: dict[str, Any]) -> str:
    console = Console(width=160)
    reporter = SimpleNamespace(console=console)
    run: Any = SimpleNamespace(reporter=reporter, directory=RunDirectory(Path("nowhere")), seconds={})
    with console.capture() as captured:
        explain(run, {"evaluations": evaluations})
    return captured.get()


def test_an_evaluator_shows_its_first_table_and_what_it_could_not_measure():
    table = {"title": "Edits [of all]", "columns": ["who", "agrees"], "rows": [["SAE [1]", 0.98765], ["none", None]]}
    text = shown({
        "supervised": {"metrics": {"a": 1.0}, "tables": [table, {}], "not_measurable": {"x@end": "it holds [nothing]"}},
    })  # fmt: skip
    assert "Edits [of all]" in text
    assert "SAE [1]" in text
    assert "0.988" in text
    assert "supervised: x@end: it holds [nothing]" in text


def test_an_evaluator_without_tables_shows_its_metrics_with_their_meaning():
    text = shown({"saebench_core": {"metrics": {"l0": 32.0}, "meaning": {"l0": "latents active per token"}}})
    assert "saebench_core" in text
    assert "latents active per token" in text
    assert shown({"steering": {"metrics": {}, "not_measurable": {"steering": "no words"}}}).count("no words") == 1
