"""The pool loses no prompt while workers are killed, stopped, scaled and synced: real processes without engines."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from actors.rollout.pool import RolloutPool
from actors.rollout.seat import Ticket
from actors.weights.manifest import Manifest
from actors.weights.published import Published
from rex_rl.config.actors import RolloutConfig
from rex_rl.errors import RolloutError
from rex_rl.rollout.worker_states import WorkerState
from rex_rl.types import Sampling
from tests.support.fakes import prompt
from tests.support.light_worker import NUM_THREADS, spawn_light

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_cluster")]
SAMPLING = Sampling(num_answers=2, temperature=1.0, max_tokens=8, seed=0)
Events = list[tuple[str, dict[str, Any]]]


@contextmanager
def pool_of(
    num_workers: int,
    *,
    answer_s: float = 0.02,
    sync_s: float = 0.0,
    slots: int = 64,
    deterministic: bool = False,
    **limits: Any,
) -> Iterator[tuple[RolloutPool, Events]]:
    """A pool of light workers that serve version 0, and the events it logged."""
    events: Events = []
    settings: dict[str, Any] = {
        "start_timeout_s": 60.0,
        "sync_timeout_s": 40.0,
        "hang_timeout_s": 3.0,
        "max_deaths_in_row": 3,
    }
    pool = RolloutPool(
        partial(spawn_light, answer_s=answer_s, sync_s=sync_s, slots=slots),
        settings=RolloutConfig(num_workers=num_workers, **{**settings, **limits}),
        tell=lambda event, **facts: events.append((event, facts)),
        deterministic=deterministic,
    )
    try:
        pool.wait_started(60)
        pool.publish(version(0))
        yield pool, events
    finally:
        pool.close()


def version(number: int) -> Published:
    """Weights of that version."""
    return Published(
        manifest=Manifest(version=number, digests=((f"{number}",),), vision_digest="", num_bytes=0), bucket_refs=[]
    )


def submit(pool: RolloutPool, count: int) -> list[Ticket]:
    return [pool.submit(prompt(f"{i}"), SAMPLING) for i in range(count)]


def finish(pool: RolloutPool, tickets: list[Ticket]) -> Counter[str]:
    """Answered prompts by worker; checks that every prompt was answered exactly once."""
    groups = [pool.result(ticket) for ticket in tickets]
    assert [group.prompt for group in groups] == [ticket.prompt for ticket in tickets]
    assert all(not worker.tickets for worker in pool.status().workers)
    return Counter(group.worker for group in groups)


def pids(pool: RolloutPool) -> dict[str, int]:
    return {worker.name: worker.identity.pid for worker in pool.status().workers if worker.identity}


def states(pool: RolloutPool) -> dict[str, WorkerState]:
    return {worker.name: worker.state for worker in pool.status().workers}


def until(condition: Callable[[], bool], *, timeout_s: float = 30) -> float:
    """Seconds until the condition holds."""
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < timeout_s, "it did not come to pass"
        time.sleep(0.02)
    return time.monotonic() - begun_s


def test_prompts_go_to_the_worker_with_the_fewest() -> None:
    """So two equal workers share a step evenly."""
    with pool_of(2) as (pool, _):
        assert finish(pool, submit(pool, 10)) == {"rollout-0": 5, "rollout-1": 5}


def test_a_killed_workers_prompts_are_answered_by_the_others_and_it_comes_back() -> None:
    """kill -9 while it decodes: noticed within a second, no prompt lost or doubled, and a new process serves."""
    with pool_of(2, answer_s=0.5) as (pool, events):
        before = pids(pool)
        tickets = submit(pool, 8)
        os.kill(before["rollout-0"], signal.SIGKILL)
        noticed_s = until(lambda: any(event == "rollout_worker_lost" for event, _ in events))
        print(f"a death was noticed after {noticed_s:.2f} s")
        assert noticed_s < 3  # 1 s is promised; on a busy machine the pool looks later
        assert finish(pool, tickets) == {"rollout-1": 8}
        until(lambda: states(pool) == dict.fromkeys(before, WorkerState.HEALTHY))
        after = pids(pool)
        assert (after["rollout-0"] == before["rollout-0"], after["rollout-1"] == before["rollout-1"]) == (False, True)
        assert finish(pool, submit(pool, 4)) == {"rollout-0": 2, "rollout-1": 2}
        assert 0 < pool.goodput.share < 1


def test_a_stopped_worker_counts_as_dead() -> None:
    """SIGSTOP: the process lives but does not answer. Its prompts go to others, and its place is filled again."""
    begun_s = time.monotonic()
    with pool_of(2, answer_s=0.3) as (pool, events):
        stopped = pids(pool)["rollout-1"]
        tickets = submit(pool, 4)
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert finish(pool, tickets)["rollout-1"] == 0
            lost_s = (1 - pool.goodput.share) * (time.monotonic() - begun_s)
            assert lost_s > 2  # the time until it was noticed counts too
            assert "no sign of life" in next(facts for event, facts in events if "lost" in event)["reason"]
            until(lambda: states(pool).get("rollout-1") is WorkerState.HEALTHY)
        finally:
            end(stopped)


def end(pid: int) -> None:
    """End a process of this test, if it still runs."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_heartbeat_does_not_wait_behind_prompts() -> None:
    """The worker is not lost with three times as many prompts as threads, as in an evaluation of several tasks."""
    with pool_of(1, answer_s=1.5, hang_timeout_s=2.0) as (pool, events):
        assert finish(pool, submit(pool, 3 * NUM_THREADS)) == {"rollout-0": 3 * NUM_THREADS}
        assert [event for event, _ in events] == ["rollout_worker_serves"]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_lost_in_the_middle_of_a_sync_does_not_hold_it_up(sign: signal.Signals) -> None:
    """The others confirm and serve; its replacement gets the same weights before it serves."""
    with pool_of(2, sync_s=1.0) as (pool, _):
        victim = pids(pool)["rollout-0"]
        with in_background(lambda: (time.sleep(0.4), os.kill(victim, sign))):
            begun_s = time.monotonic()
            pool.publish(version(1))
        assert time.monotonic() - begun_s < 20  # a heartbeat is waited for 3 s; the sync would be for 40 s
        assert states(pool)["rollout-1"] is WorkerState.HEALTHY
        end(victim)
        groups = [pool.result(ticket) for ticket in submit(pool, 4)]
        until(lambda: states(pool).get("rollout-0") is WorkerState.HEALTHY)
        groups += [pool.result(ticket) for ticket in submit(pool, 4)]
        assert {answer.oldest_version for group in groups for answer in group.answers} == {1}
        assert {group.worker for group in groups} == {"rollout-0", "rollout-1"}


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def test_a_worker_that_dies_time_after_time_is_given_up_with_its_reason() -> None:
    """It is not restarted for ever; with no worker left the run ends with a line that says why."""
    with pool_of(1, answer_s=30, max_deaths_in_row=2) as (pool, events):
        tickets = submit(pool, 1)
        for _ in range(2):
            until(lambda: states(pool).get("rollout-0") is WorkerState.HEALTHY)
            before = pids(pool)["rollout-0"]
            os.kill(before, signal.SIGKILL)
            until(lambda gone=before: pids(pool).get("rollout-0") != gone)
        with pytest.raises(RolloutError, match="no rollout worker is left: rollout-0: its process died"):
            pool.result(tickets[0])
        assert events[-1][1]["retired"]
        pool.scale(1)  # somebody asks for it again
        until(lambda: states(pool).get("rollout-0") is WorkerState.HEALTHY)


def test_scaling_1_to_3_to_1_loses_and_doubles_no_prompt() -> None:
    """New workers serve only after a sync; surplus workers finish their prompts first."""
    with pool_of(1, answer_s=0.3) as (pool, events):
        pool.scale(3)
        until(lambda: list(states(pool).values()) == [WorkerState.HEALTHY] * 3)
        tickets = submit(pool, 9)
        pool.scale(1)
        assert finish(pool, tickets) == {"rollout-0": 3, "rollout-1": 3, "rollout-2": 3}
        until(lambda: list(states(pool)) == ["rollout-0"])
        assert [event for event, _ in events if event == "rollout_worker_lost"] == []


def test_throughput_follows_the_number_of_workers() -> None:
    """Three workers take less than half of one worker's time (a third, plus overhead), and one takes its own.

    36 prompts at 0.1 s, two at a time, are 1.8 s of work: thirty times the pool's own time for them.
    """

    def answer_all(pool: RolloutPool) -> float:
        begun_s = time.monotonic()
        finish(pool, submit(pool, 36))
        return time.monotonic() - begun_s

    with pool_of(1, answer_s=0.1, slots=2) as (pool, _):
        seconds = []
        for num_workers in (1, 3, 1):
            pool.scale(num_workers)
            until(lambda wanted=num_workers: list(states(pool).values()) == [WorkerState.HEALTHY] * wanted)
            seconds.append(answer_all(pool))
    assert seconds[1] < 0.5 * min(seconds[0], seconds[2])


def test_scaled_to_none_a_run_waits_and_goes_on_when_there_are_some_again() -> None:
    """0 is a pause, not an end."""
    with pool_of(1) as (pool, _):
        pool.scale(0)
        until(lambda: not states(pool))
        tickets = submit(pool, 3)
        assert pool.status().num_queued == 3
        with in_background(lambda: (time.sleep(0.5), pool.scale(2))):
            assert finish(pool, tickets).total() == 3


def test_answers_in_flight_at_a_sync_are_kept_or_asked_anew() -> None:
    """Kept answers are by the old weights; aborted ones are written again by the new weights, in parallel as before."""
    for abort, written_by in ((False, 0), (True, 1)):
        with pool_of(1, answer_s=1.5, on_sync="abort" if abort else "keep") as (pool, _):
            tickets = submit(pool, 6)
            time.sleep(0.2)
            pool.publish(version(1))
            begun_s = time.monotonic()
            groups = [pool.result(ticket) for ticket in tickets]
            assert {group.answers[0].oldest_version for group in groups} == {written_by}
            assert time.monotonic() - begun_s < 3 * 1.5


def test_a_deterministic_pool_deals_by_number() -> None:
    """After every sync the first prompt goes to the first worker, whichever answers sooner."""
    with pool_of(2, deterministic=True) as (pool, _):
        for number in (1, 2):
            pool.publish(version(number))
            groups = []
            for i in range(4):
                groups.append(pool.result(pool.submit(prompt(f"{i}"), SAMPLING)))
            assert [group.worker for group in groups] == ["rollout-0", "rollout-1"] * 2


def test_discarded_prompts_do_not_fill_the_workers() -> None:
    """A learner that starts anew asks again from its checkpoint; prompts in flight must not occupy the workers."""
    with pool_of(1, answer_s=20) as (pool, _):
        tickets = submit(pool, 3)
        until(lambda: pool.status().num_in_flight == 3)
        pool.discard(tickets)
        until(lambda: pool.status().num_in_flight == 0)


def test_a_worker_that_cannot_start_is_an_error_at_the_start() -> None:
    """A wrong model folder ends the run with its reason, not with a timeout."""
    settings = RolloutConfig(hang_timeout_s=3, max_deaths_in_row=2)
    pool = RolloutPool(partial(spawn_light, fails="no such folder"), settings=settings)
    try:
        with pytest.raises(RolloutError, match=r"rollout-0 could not start: .*no such folder"):
            pool.wait_started(30)
    finally:
        pool.close()
