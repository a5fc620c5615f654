"""The states of a rollout worker, and what moves it from one to the next. Pure: no process is known here.

```
STARTING --started--> STALE --synced--> HEALTHY
                        ^                  |
                        +-----outdated-----+
any but DEAD --drain--> DRAINING           any but DEAD --died--> DEAD
```
Only a HEALTHY worker is given prompts, so base weights and old ones are never served by a rule, not by luck.
"""

from enum import StrEnum


class WorkerState(StrEnum):
    """Where a worker stands."""

    STARTING = "STARTING"
    """Its process or engine is not up yet."""
    STALE = "STALE"
    """It runs, and has not confirmed the newest weights: it finishes what it has, and gets nothing new."""
    HEALTHY = "HEALTHY"
    """It confirmed the newest weights and serves."""
    DRAINING = "DRAINING"
    """It finishes what it has, and then ends."""
    DEAD = "DEAD"
    """Its process is gone, or given up."""


class WorkerEvent(StrEnum):
    """What happens to a worker."""

    STARTED = "started"
    SYNCED = "synced"
    """It confirmed version and digest of the newest weights."""
    OUTDATED = "outdated"
    """Newer weights were published."""
    DRAIN = "drain"
    DIED = "died"


_MOVES = {
    (WorkerState.STARTING, WorkerEvent.STARTED): WorkerState.STALE,
    (WorkerState.STALE, WorkerEvent.SYNCED): WorkerState.HEALTHY,
    (WorkerState.HEALTHY, WorkerEvent.OUTDATED): WorkerState.STALE,
}
_UNMOVED = {
    (WorkerState.STARTING, WorkerEvent.OUTDATED),
    (WorkerState.STALE, WorkerEvent.OUTDATED),
    (WorkerState.DRAINING, WorkerEvent.STARTED),
    (WorkerState.DRAINING, WorkerEvent.SYNCED),
    (WorkerState.DRAINING, WorkerEvent.OUTDATED),
    (WorkerState.DRAINING, WorkerEvent.DRAIN),
}


def after(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """The state that follows; an event that cannot happen in a state is a bug of ours (AssertionError).

    >>> after(WorkerState.HEALTHY, WorkerEvent.OUTDATED).value
    'STALE'
    """
    if state is not WorkerState.DEAD:
        if event is WorkerEvent.DIED:
            return WorkerState.DEAD
        if event is WorkerEvent.DRAIN:
            return WorkerState.DRAINING
    moved = state if (state, event) in _UNMOVED else _MOVES.get((state, event))
    assert moved is not None, f"a worker cannot be {event} while {state}"
    return moved
