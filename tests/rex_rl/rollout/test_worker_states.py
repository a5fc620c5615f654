"""The state machine of a rollout worker: its transitions under every sequence of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.rollout.worker_states import WorkerEvent, WorkerState, after

EVERYTHING = [(state, event) for state in WorkerState for event in WorkerEvent]


def possible(state: WorkerState) -> list[WorkerEvent]:
    """The events that may happen in a state."""
    found = []
    for event in WorkerEvent:
        try:
            after(state, event)
        except AssertionError:
            continue
        found.append(event)
    return found


@given(st.lists(st.integers(min_value=0, max_value=len(WorkerEvent) - 1), max_size=12))
def test_only_a_worker_that_confirmed_the_newest_weights_is_healthy(draws: list[int]) -> None:
    """After any events in any order, HEALTHY means started, and synced since the last publish."""
    state, started, current = WorkerState.STARTING, False, False
    for draw in draws:
        if not (events := possible(state)):
            assert state is WorkerState.DEAD
            return
        event = events[draw % len(events)]
        state = after(state, event)
        started |= event is WorkerEvent.STARTED
        current = event is WorkerEvent.SYNCED or (current and event is not WorkerEvent.OUTDATED)
        if state is WorkerState.HEALTHY:
            assert (started, current) == (True, True)


@pytest.mark.parametrize("event", WorkerEvent)
def test_nothing_happens_to_the_dead(event: WorkerEvent) -> None:
    """A place is filled by a new worker, never by a dead one that comes back."""
    with pytest.raises(AssertionError, match="cannot be"):
        after(WorkerState.DEAD, event)


@pytest.mark.parametrize("state", [state for state in WorkerState if state is not WorkerState.DEAD])
def test_every_living_worker_can_die_and_be_drained(state: WorkerState) -> None:
    """At any moment."""
    assert after(state, WorkerEvent.DIED) is WorkerState.DEAD
    assert after(state, WorkerEvent.DRAIN) is WorkerState.DRAINING


def test_a_draining_worker_does_not_serve_again() -> None:
    """Weights that arrive late change nothing: otherwise shrinking would never end."""
    for event in (WorkerEvent.STARTED, WorkerEvent.SYNCED, WorkerEvent.OUTDATED):
        assert after(WorkerState.DRAINING, event) is WorkerState.DRAINING


def test_a_starting_worker_cannot_skip_its_sync() -> None:
    """It holds only its folder's weights, which are not to be served."""
    assert after(WorkerState.STARTING, WorkerEvent.STARTED) is WorkerState.STALE
    with pytest.raises(AssertionError):
        after(WorkerState.STARTING, WorkerEvent.SYNCED)
