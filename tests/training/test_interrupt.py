"""Signals become a wish to stop, and nothing of it stays behind."""

import os
import signal
import threading

import pytest

from saelab.errors import Interrupted, SaelabError
from saelab.training.interrupt import STOPPING, stop_on_signals


@pytest.fixture(autouse=True)
def handlers_stay():
    """As in a terminal, also where tests run in the background and SIGINT is ignored; and no handler stays behind."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in STOPPING]
    yield
    assert [signal.getsignal(number) for number in STOPPING] == before
    signal.signal(signal.SIGINT, found)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def raise_after(number: signal.Signals) -> None:
    send(number)
    raise RuntimeError("in the middle")


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_only_asks_to_stop(number):
    with stop_on_signals() as stop:
        assert not stop.requested
        send(number)
        assert stop.requested
        assert stop.signal is number


@pytest.mark.parametrize("first", STOPPING)
def test_a_person_who_asks_again_is_heard_at_once(first):
    with stop_on_signals():
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_scheduler_that_asks_again_changes_nothing():
    with stop_on_signals() as stop:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop.signal is signal.SIGINT


def test_handlers_come_back_whatever_happens_inside():
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(RuntimeError, match="in the middle"), stop_on_signals():
            raise_after(signal.SIGTERM)
        assert heard == []
        send(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            send(signal.SIGINT)
            assert not stop.requested
            send(signal.SIGTERM)
            assert stop.signal is signal.SIGTERM
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_touched():
    seen: list[object] = []

    def work() -> None:
        with stop_on_signals() as stop:
            seen.extend([stop.requested, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_a_stopped_run_says(number, code):
    stopped = Interrupted(120, number)
    assert isinstance(stopped, SaelabError)
    assert str(stopped) == f"stopped at step 120 by {number.name}; the same command goes on from there"
    assert stopped.exit_code == code
