"""SIGTERM: the first signal asks, the second or the end of the wait ends the run; if it hangs, it exits with 143."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rex_rl.errors import RexError, RunError, Stopped
from rex_rl.run.stopping import StopRequest


def send() -> None:
    """Send SIGTERM to this process; the handler runs before the next line."""
    signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def stop() -> StopRequest:
    return StopRequest(wait_s=60)


def test_the_first_signal_only_asks_once_steps_are_worth_waiting_for(stop: StopRequest) -> None:
    stop.is_patient = True
    with stop.listening():
        send()
        assert stop.requested
        assert not stop.at_once
        with pytest.raises(Stopped, match=r"ended at once by SIGTERM; .* goes on from its beginning"):
            send()
        send()  # the run is ending: a third signal changes nothing


def test_before_the_first_step_a_run_ends_at_the_first_signal(stop: StopRequest) -> None:
    """There is nothing to save while actors start."""
    with stop.listening(), pytest.raises(Stopped):
        send()


def test_after_the_wait_it_ends_at_once() -> None:
    stop = StopRequest(wait_s=0.05)
    stop.is_patient = True
    with stop.listening():
        send()
        with pytest.raises(Stopped):
            time.sleep(10)


def test_afterwards_signals_mean_what_they_did_and_no_timer_is_left(stop: StopRequest) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop.is_patient = True
    with stop.listening():
        send()
    assert signal.getsignal(signal.SIGTERM) is before
    for timer in stop._timers:
        timer.join(5)
    assert not any(timer.is_alive() for timer in stop._timers)


def test_a_handler_put_in_place_meanwhile_can_be_replaced(stop: StopRequest) -> None:
    """As `ray.init` does."""
    stop.is_patient = True
    with stop.listening():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.listen()
        send()
    assert stop.requested


def test_another_thread_may_listen_without_effect(stop: StopRequest) -> None:
    """Python handles signals in the main thread only; a run in another thread goes without."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with stop.listening():
                pass
        except BaseException as error:  # noqa: BLE001 - shown below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed


def test_stopped_is_not_a_run_error() -> None:
    assert issubclass(Stopped, RexError)
    assert not issubclass(Stopped, RunError)
    assert Stopped.exit_status == 143


@pytest.mark.parametrize("hangs", [False, True], ids=["ends in order", "hangs in its end"])
def test_a_process_ends_with_143_whatever_it_does(root: Path, hangs: bool) -> None:
    """From outside, with one signal and a step that outlasts the wait: `finally` blocks run, unless they hang."""
    code = f"""
        import sys, time
        from rex_rl.run import stopping
        from rex_rl.errors import Stopped
        stopping.CLOSE_S = 0.2
        stop = stopping.StopRequest(wait_s=0.1)
        stop.is_patient = True
        try:
            with stop.listening():
                print("ready", flush=True)
                try:
                    time.sleep(90)
                finally:
                    print("closing", flush=True)
                    time.sleep(90 if {hangs} else 0)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(stopped.exit_status)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert out == "closing\n"
    assert "submit the same command again: it goes on from its beginning" in err
