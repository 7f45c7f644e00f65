"""Locks: one process at a time, whose name is known, and none that outlives its process."""

import json
import os
import socket
import subprocess
import sys

import pytest

from saelab.errors import SaelabError
from saelab.files import only_process

BUSY = SaelabError("another process is working here", where="runs/x", fix="wait for it")


def test_the_second_process_is_told_who_the_first_is(tmp_path):
    lock = tmp_path / ".lock"
    with only_process(lock, BUSY):
        with pytest.raises(SaelabError) as found, only_process(lock, BUSY):
            pass
        who = (
            rf"\(process {os.getpid()} on {socket.gethostname()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d\)"
        )
        assert found.match(rf"^runs/x: another process is working here {who}\n  fix: wait for it$")
        with pytest.raises(SaelabError), only_process(lock, BUSY):  # being refused has not wiped the holder's name
            pass
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    with only_process(lock, BUSY):
        pass


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"pid": 1}'])
def test_a_holder_who_has_not_said_who_it_is_still_holds(tmp_path, text):
    lock = tmp_path / ".lock"
    with only_process(lock, BUSY):
        lock.write_text(text)
        with pytest.raises(SaelabError, match=r"another process is working here\n"), only_process(lock, BUSY):
            pass


def test_a_lock_left_by_a_dead_process_stops_nobody(tmp_path):
    lock = tmp_path / ".lock"
    code = (
        "import os, sys; from pathlib import Path; from saelab.errors import SaelabError;"
        "from saelab.files import only_process\n"
        "with only_process(Path(sys.argv[1]), SaelabError('busy')): os._exit(0)"
    )
    dead = subprocess.Popen([sys.executable, "-c", code, str(lock)])
    assert dead.wait() == 0
    assert json.loads(lock.read_text())["pid"] == dead.pid
    with only_process(lock, BUSY):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
        assert lock.read_text().count("\n") == 1
