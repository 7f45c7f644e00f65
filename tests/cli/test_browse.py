"""`saelab browse`: what it starts, and what it refuses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from saelab.cli import browse
from saelab.errors import SaelabError


def test_the_app_serves_this_machine_and_tells_no_other(tmp_path: Path):
    line = browse.command([tmp_path], 8600, "127.0.0.1", opens=False)
    assert line[:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(line[4]).is_file()
    assert {"--browser.gatherUsageStats=false", "--server.address=127.0.0.1", "--server.port=8600"} <= set(line)
    assert "--server.headless=true" in line
    assert line[-2:] == ["--", str(tmp_path)]


def test_without_a_port_streamlit_finds_a_free_one(tmp_path: Path):
    assert not any("server.port" in part for part in browse.command([tmp_path], None, "127.0.0.1", opens=True))


def test_a_directory_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SaelabError, match="this directory does not exist") as found:
        browse.command([tmp_path / "nothing"], None, "127.0.0.1", opens=True)
    assert found.value.where == str(tmp_path / "nothing")


def test_missing_libraries_come_with_the_command_that_installs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SaelabError, match="not installed") as found:
        browse.command([tmp_path], None, "127.0.0.1", opens=True)
    assert found.value.fix == "pip install 'saelab[browser]'"
