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
    run: Any = SimpleNamespace(
        reporter=SimpleNamespace(console=console),
        directory=RunDirectory(Path("nowhere")),
        seconds={},
        config=SimpleNamespace(eval=evaluations),
    )
    with console.capture() as captured:
        explain(run, {"evaluations": evaluations | {"not asked": {"metrics": {"older": 1.0}}}})
    return captured.get()


def entry(**more: Any) -> dict[str, Any]:
    table = {"title": "Edits [of all]", "columns": ["who", "agrees"], "rows": [["SAE [1]", 0.98765], ["none", None]]}
    return {"metrics": {"a": 1.0}, "meaning": {"a": "how [far]"}, "tables": [table, {}], **more}


def test_an_evaluator_shows_its_first_table_and_what_it_could_not_measure():
    text = shown({"supervised": entry(not_measurable={"x@end": "it holds [nothing]"}, intervals={"a": [0.5, 1.5]})})
    for wanted in ("Edits [of all]", "SAE [1]", "0.9877", "0.500 .. 1.500", "how [far]"):
        assert wanted in text
    assert "x@end is not measurable: it holds [nothing]" in text
    assert "older" not in text


def test_many_evaluators_show_their_tables_alone():
    text = shown({f"evaluator {i}": entry() for i in range(5)})
    assert text.count("Edits [of all]") == 5
    assert "how [far]" not in text


def test_an_evaluator_without_tables_shows_its_metrics_with_their_meaning():
    text = shown({"saebench_core": {"metrics": {"l0": 32.0}, "meaning": {"l0": "latents active per token"}}})
    assert "saebench_core" in text
    assert "latents active per token" in text
    assert shown({"steering": {"metrics": {}, "not_measurable": {"steering": "no words"}}}).count("no words") == 1
