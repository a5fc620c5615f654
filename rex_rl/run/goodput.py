"""Goodput: the share of a run's time that faults did not cost."""

import time
from collections.abc import Callable, Mapping, Sequence

Times = Sequence[tuple[float, float]]
"""(begin, end) in seconds, without overlaps."""


class Goodput:
    """Share of the time since its start that was not lost to faults; time that two faults cost together counts once.

    >>> now_s = iter((0.0, 20.0)).__next__
    >>> goodput = Goodput(clock=now_s)
    >>> goodput.lose(2.0, 5.0)
    >>> goodput.lose(4.0, 6.0)
    >>> goodput.share
    0.8
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._begun_s = clock()
        self._lost: Times = ()
        self._ended_s: dict[tuple[str, int], float] = {}
        """(stage, step) -> when that step was done."""
        self._back_since_s: float | None = None

    @property
    def share(self) -> float:
        """0 to 1, up to now."""
        now_s = self._clock()
        since_s = self._back_since_s  # read once: other threads ask for the share
        lost = self._lost if since_s is None else _joined(self._lost, since_s, now_s)
        return 1 - sum(end_s - begin_s for begin_s, end_s in lost) / (now_s - self._begun_s)

    def lose(self, begin_s: float, end_s: float) -> None:
        """Count a time as lost, such as the wait for answers that a lost worker had been asked for."""
        self._lost = _joined(self._lost, begin_s, end_s)

    def go_back(self, stage: str, step: int) -> None:
        """The run goes back to the end of a step: the time since then and until `resume` is lost."""
        self._back_since_s = self._ended_s.get((stage, step), self._clock())

    def resume(self, at_s: float | None = None) -> None:
        """The run has been where it went back to since `at_s`, or since now; no effect if it did not go back."""
        if self._back_since_s is not None:
            self.lose(self._back_since_s, self._clock() if at_s is None else at_s)
            self._back_since_s = None

    def step(self, stage: str, step: int, num_steps: int, seconds: Mapping[str, float]) -> None:
        """A step is done; `seconds` by part."""
        now_s = self._clock()
        self.resume(now_s - sum(seconds.values()))
        self._ended_s[stage, step] = now_s


def _joined(times: Times, begin_s: float, end_s: float) -> Times:
    """`times` and one more, merged so that they do not overlap."""
    apart = [time for time in times if time[1] < begin_s or end_s < time[0]]
    met = [(begin_s, end_s), *(time for time in times if time not in apart)]
    return [*apart, (min(begin for begin, _ in met), max(end for _, end in met))]
