"""Running a notebook's script in a kernel, and the notebook that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

from saelab.files import write_text

ROOT = Path(__file__).parent.parent.parent / "notebooks"


def scripts() -> list[Path]:
    """The notebooks as scripts, in order."""
    return sorted(ROOT.glob("*.py"))


@contextmanager
def kernel() -> Iterator[Callable[..., Any]]:
    """A kernel in the notebooks' directory, and what runs a script in it.

    That takes the script, and code of a cell that is run `before` it and left out; it returns the notebook with its
    outputs, or raises CellExecutionError, with the cell's code and traceback.
    """
    client = NotebookClient(
        nbformat.v4.new_notebook(), timeout=None, record_timing=False, resources={"metadata": {"path": str(ROOT)}}
    )

    def run(script: Path, before: str = "") -> Any:
        extra = [nbformat.v4.new_code_cell(before)] if before else []
        client.nb = jupytext.read(script)
        client.nb.cells[:0] = extra
        client.reset_execution_trackers()
        for number, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, number)
        del client.nb.cells[: len(extra)]
        return client.nb

    with client.setup_kernel():
        yield run


def store(notebook: Any, script: Path) -> Path:
    """Write it beside its script, without what differs from one machine or day to another."""
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:02}"
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
        for output in (output for output in cell.outputs if output.output_type == "execute_result"):
            output.execution_count = number
    notebook.metadata = {
        "jupytext": {key: notebook.metadata["jupytext"][key] for key in ("formats", "notebook_metadata_filter")},
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    path = script.with_suffix(".ipynb")
    write_text(path, nbformat.writes(notebook) + "\n")
    return path
