"""How a run ends when it is asked to: SIGTERM, which is what `ray job stop` and most schedulers send.

At the first signal the loop ends after its current step, with a checkpoint (see `StageCheckpoints.after_step`). After
`wait_s`, or at a second signal, the run ends at once with what is on disk. Either way `Stopped` is raised in the
driver's main thread, so actors, W&B and log are closed in order. Where that takes too long, or the thread hangs in
foreign code, the process exits without closing them.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rex_rl.errors import Stopped

CLOSE_S = 15.0
"""Time to close everything in order once the run ends; after it the process exits as it is."""


class StopRequest:
    """Whether the run was asked to end, and from where it goes on when submitted again."""

    def __init__(self, *, wait_s: float = 30.0) -> None:
        self.requested = False
        self.is_patient = False
        """Whether a step is worth waiting for; before the first one, a run ends at the first signal."""
        self.at_once = False
        self.goes_on_from = "its beginning"
        self._wait_s = wait_s
        self._timers: list[threading.Timer] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM in this block, if this is the main thread: no other thread may handle signals."""
        before: Any = signal.getsignal(signal.SIGTERM)
        self.listen()
        try:
            yield
        finally:
            for timer in self._timers:
                timer.cancel()
            if _in_main_thread():
                signal.signal(signal.SIGTERM, before)

    def listen(self) -> None:
        """Handle SIGTERM from now on; call it again after `ray.init`, which sets a handler of its own."""
        if _in_main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)

    def stopped(self) -> Stopped:
        """The error to raise, with the line that says what to do next."""
        how = "at once" if self.at_once else "in order"
        return Stopped(f"ended {how} by SIGTERM; submit the same command again: it goes on from {self.goes_on_from}")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            self._later(self._wait_s, _send_again)
            if self.is_patient:
                return
        if not self.at_once:  # a third signal changes nothing: the run is ending
            self.at_once = True
            self._later(CLOSE_S, self._exit)
            raise self.stopped()

    def _later(self, seconds: float, what: Any) -> None:
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _exit(self) -> None:
        os.write(2, f"rex-rl: {self.stopped()}\n".encode())
        os._exit(Stopped.exit_status)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _send_again() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
