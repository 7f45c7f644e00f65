"""The notebooks run, are in step with their scripts, and hold nothing of the machine they were made on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupytext
import pytest

from saelab.testing.markup import Elements
from tests.notebooks.execution import kernel, scripts

STRICT = "%reset -f\nimport warnings\nwarnings.simplefilter('error')"
NAMES = [
    "01_train_and_read_an_sae",
    "02_find_the_ioi_circuit",
    "03_greater_than_and_agreement",
    "04_features_in_a_circuit",
]


def outputs(notebook: Any) -> Iterator[tuple[str, str]]:
    """Of every cell: the kind of each output, and its text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                yield output.name, output.text
            else:
                yield from output.get("data", {"error": str(output)}).items()


@pytest.fixture(scope="module")
def in_short(short: Path) -> Iterator[Callable[..., Any]]:
    """One kernel for all, since most of the time goes into imports."""
    with kernel() as run:
        yield run


def test_there_are_four():
    assert [script.stem for script in scripts()] == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.stem[:2])
def test_it_runs_in_short_and_warns_of_nothing(script: Path, in_short: Callable[..., Any]):
    found = dict.fromkeys(kind for kind, _ in outputs(in_short(script, STRICT)))
    assert not {"stderr", "error"} & found.keys()
    assert {"image/svg+xml", "text/html"} <= found.keys()


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.stem[:2])
def test_notebook_and_script_are_in_step(script: Path):
    stored: Any = jupytext.read(script.with_suffix(".ipynb"))
    written: Any = jupytext.read(script)
    cells = [(cell.cell_type, cell.source) for cell in stored.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in written.cells], "`make notebooks` stores it anew"
    assert stored.metadata["jupytext"]["formats"] == written.metadata["jupytext"]["formats"] == "ipynb,py:percent"


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.stem[:2])
def test_what_is_stored_was_run_from_top_to_bottom_and_is_no_ones_machine(script: Path):
    path = script.with_suffix(".ipynb")
    assert path.stat().st_size < 1e6
    notebook: Any = jupytext.read(path)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    kinds = set()
    for kind, text in outputs(notebook):
        kinds.add(kind)
        shown = Elements(text).text if kind in ("text/html", "image/svg+xml") else text
        assert not re.search(r"(?<![\w.~])/(?:root|home|Users|tmp|work|var|opt|mnt|usr)\b|[A-Z]:\\", shown), text
        assert kind != "text/html" or not {"script", "iframe", "img"} & set(Elements(text).tags)
    assert not {"stderr", "error"} & kinds
    assert {"image/svg+xml", "text/html", "stdout"} <= kinds
