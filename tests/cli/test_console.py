"""What a person is told while something runs."""

from __future__ import annotations

from rich.console import Console

from saelab.cli.console import Reporter


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path):
    console = Console(width=160)
    reporter = Reporter(console)
    with console.capture() as captured:
        reporter.say("early")
        reporter.log_to(tmp_path)  # a directory: refused as a full disk refuses
        reporter.say("later")
        reporter.keep("in the log alone")
    said = captured.get().splitlines()
    assert (said[0], said[2]) == ("early", "later")
    assert said[1].startswith(f"note       {tmp_path} cannot be written")
    assert len(said) == 3


def test_what_was_said_before_there_was_a_log_is_in_it(tmp_path):
    reporter = Reporter(Console(quiet=True))
    reporter.say("early")
    reporter.log_to(tmp_path / "log.txt")
    reporter.say("later")
    assert [line.split(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["early", "later"]
