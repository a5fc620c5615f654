"""The console of a run: one progress line on a terminal, one line per step in a job log."""

import sys
import time
from contextlib import suppress
from typing import IO, Any, Protocol


class Console(Protocol):
    """Where a person follows the run: standard error, as standard output belongs to `--json`."""

    def progress(self, stage: str, step: int, num_steps: int, text: str) -> None:
        """`step` of `num_steps` is done."""

    def say(self, text: str) -> None:
        """Print one line."""

    def close(self) -> None:
        """End the output."""


class PlainConsole:
    """One line per step with the time of day, for a job log."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def progress(self, stage: str, step: int, num_steps: int, text: str) -> None:
        """Print a line, as `say` does."""
        self.say(f"{stage} {step}/{num_steps}  {text}")

    def say(self, text: str) -> None:
        """Print one line. A stream that is closed or full raises nothing."""
        with suppress(OSError, ValueError):
            print(f"{time.strftime('%H:%M:%S')} {' '.join(text.split(chr(10)))}", file=self._stream, flush=True)

    def close(self) -> None:
        """Do nothing: the stream is not ours."""


class TerminalConsole:
    """One progress line per stage at the bottom of a terminal; everything else scrolls above it."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True)),
            console=RichConsole(file=stream, force_terminal=True),
            refresh_per_second=2,
            redirect_stdout=False,
        )
        self._tasks: dict[str, Any] = {}

    def progress(self, stage: str, step: int, num_steps: int, text: str) -> None:
        """Move the stage's line."""
        with suppress(OSError, ValueError):
            if stage not in self._tasks:
                self._tasks[stage] = self._progress.add_task(stage, total=num_steps, completed=step, text=text)
                self._progress.start()
            self._progress.update(self._tasks[stage], completed=step, text=text, refresh=True)

    def say(self, text: str) -> None:
        """Print one line above the progress lines."""
        with suppress(OSError, ValueError):
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the lines as they are."""
        with suppress(OSError, ValueError):
            self._progress.stop()


class Pace:
    """Estimates how long a stage still takes, from its pace since its first step in this process."""

    def __init__(self, first_step: int, seconds: float) -> None:
        """The first step took `seconds` and is just over."""
        self._num_before = first_step - 1
        self._begun = time.monotonic() - seconds

    def left(self, step: int, num_steps: int) -> str:
        """The time left in words, such as `12 min left`; the pace includes evaluations and checkpoints so far."""
        per_step = (time.monotonic() - self._begun) / (step - self._num_before)
        return f"{_duration(per_step * (num_steps - step))} left"


def make_console() -> Console:
    """The console that suits standard error."""
    return TerminalConsole(sys.stderr) if sys.stderr.isatty() else PlainConsole(sys.stderr)


def _duration(seconds: float) -> str:
    """A duration in words, rounded as a person would say it.

    >>> _duration(48.3), _duration(700), _duration(7500)
    ('48 s', '12 min', '2 h 05 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
