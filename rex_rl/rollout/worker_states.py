"""The states of a rollout worker, and the events that move it between them. Pure: no processes here.

```
STARTING --started--> STALE --synced--> HEALTHY
                        ^                  |
                        +-----outdated-----+
any but DEAD --drain--> DRAINING           any but DEAD --died--> DEAD
```
Only a HEALTHY worker is given prompts. This rule, and not luck, keeps base and old weights from being served.
"""

from enum import StrEnum


class WorkerState(StrEnum):
    """The state of a worker."""

    STARTING = "STARTING"
    """Its process or engine is not up yet."""
    STALE = "STALE"
    """It runs, and has not confirmed the newest weights: it finishes its prompts, and gets no new ones."""
    HEALTHY = "HEALTHY"
    """It confirmed the newest weights and serves."""
    DRAINING = "DRAINING"
    """It finishes its prompts, and then ends."""
    DEAD = "DEAD"
    """Its process is gone, or was given up."""


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
    """The next state; an event that cannot happen in a state is a bug of ours (AssertionError).

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
