"""The console: a line that moves on a terminal, plain lines elsewhere, and never an error."""

import io
import sys

import pytest

from rex_rl.run.console import Pace, PlainConsole, TerminalConsole, make_console


def test_a_terminal_gets_one_progress_line_a_stage() -> None:
    stream = io.StringIO()
    console = TerminalConsole(stream)
    console.progress("grpo", 19, 60, "reward 0.4  1 min left")
    console.say("resumed [red]after step 18[/red]")
    console.progress("grpo", 20, 60, "reward 0.5  50 s left")
    console.close()
    shown = stream.getvalue()
    assert "resumed [red]after step 18[/red]\n" in shown
    assert "20/60" in shown
    assert shown.rstrip("\n\x1b[?25h").endswith("reward 0.5  50 s left")


def test_the_console_follows_what_standard_error_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(make_console(), TerminalConsole)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_console(), PlainConsole)


def test_a_console_whose_stream_is_gone_stops_nothing() -> None:
    stream = io.StringIO()
    consoles = PlainConsole(stream), TerminalConsole(stream)
    stream.close()
    for console in consoles:
        console.say("text")
        console.progress("sft", 1, 2, "text")
        console.close()


def test_the_time_left_counts_from_the_first_step_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run resumed after step 4 knows nothing of how long those four took."""
    now = 1000.0
    monkeypatch.setattr("rex_rl.run.console.time.monotonic", lambda: now)
    pace = Pace(5, seconds=10.0)
    assert pace.left(5, 10) == "50 s left"
    now = 1030.0  # two more steps and an evaluation: 40 s for three steps
    assert pace.left(7, 607) == "2 h 13 min left"
