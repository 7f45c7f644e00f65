"""Runs to look at, made by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from saelab.testing.bundles import tiny_bundle

from .driver import Server, chromium, serving

DASHBOARDS = Path(__file__).parent.parent.parent / "dashboards"

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """Makes a run with a tiny index; keyword arguments are `tiny_bundle`'s."""

    def make(path: Path, *, index: bool = True, trained: bool = True, **settings: Any) -> Path:
        path.mkdir(parents=True)
        (path / "config.yaml").write_text("name: tiny\nsae: {kind: topk}\n")
        (path / "metrics.jsonl").write_text('{"step": 1, "tokens": 100, "metrics/l0": 7.5}\n')
        if trained:
            (path / "sae").mkdir()
            provenance = {"model": {"name": "tiny-model"}, "hook": "blocks.1.hook_resid_post", "trained_tokens": 1000}
            document = {"kind": "topk", "settings": {"n_latents": 12, "k": 4}, "provenance": provenance}
            (path / "sae" / "config.json").write_text(json.dumps(document))
            (path / "summary.json").write_text(json.dumps({"tokens": 1000, "heldout": {"inference": {"fvu": 0.25}}}))
        if index:
            tiny_bundle(path / "index", **settings)
        return path

    return make


@pytest.fixture(scope="module")
def server(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app, serving a module's `runs`."""
    with serving(runs, log=tmp_path_factory.mktemp("server") / "log.txt") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit's AppTest puts the page in place of `__main__`, and would leave it there: new processes import that."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
