"""One rollout worker as the driver sees it: its state, the prompts it owes, and when it counts as lost."""

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from actors.identity import Identity
from actors.weights.manifest import Manifest
from actors.weights.published import Weights
from rex_rl.config.actors import RolloutConfig
from rex_rl.rollout.worker_states import WorkerEvent, WorkerState, after
from rex_rl.types import Prompt, Sampling

PING_EVERY_S = 0.25
"""A dead process is noticed by the next ping at the latest."""
CONTROL_GROUP = "control"
"""Ray's concurrency group for calls of a rollout worker that must never wait behind prompts. Where prompts take all of
its threads, a heartbeat would come late and the worker would count as lost.
"""
CONCURRENCY_GROUPS = {CONTROL_GROUP: 4}
"""An option of every rollout worker's actor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """What a worker reports when it is asked."""

    num_loops: int
    """Passes of the engine's thread; the number stands still where the engine hangs."""
    num_waiting: int
    """Prompts that wait for their answers."""


@dataclass(kw_only=True, eq=False, slots=True)
class Ticket:
    """A submitted prompt: which worker has it now, and the reference its group will come from."""

    prompt: Prompt
    sampling: Sampling
    number: int
    """Its place among those submitted since the last sync."""
    worker: "Worker | None" = None
    ref: ObjectRef | None = None
    was_held_up: bool = False
    """A worker died with it, or no worker could take it."""


class WorkerLost(Exception):
    """The worker cannot be counted on any more; says why."""


@dataclass(kw_only=True, eq=False, slots=True)
class Worker:
    """A rollout worker's actor, and everything the driver waits for from it."""

    name: str
    actor: ActorHandle
    settings: RolloutConfig
    """Its time limits, and what a sync does to answers in flight."""
    state: WorkerState = WorkerState.STARTING
    identity: Identity | None = None
    version: int | None = None
    """The newest version it confirmed."""
    tickets: list[Ticket] = field(default_factory=list)
    num_served: int = 0
    """Groups it answered."""
    num_waiting: int = 0
    """Prompts it was answering at its last heartbeat."""
    _born_s: float = field(default_factory=time.monotonic)
    _ready: ObjectRef = None
    update: ObjectRef | None = None
    _update_sent_s: float = 0.0
    _ping: ObjectRef | None = None
    _ping_sent_s: float = 0.0
    _num_loops: int = -1
    _moved_s: float = 0.0
    """When the engine's thread was last seen to move."""

    def __post_init__(self) -> None:
        """Ask for its identity, which it gives once its engine is up."""
        self._ready = self.actor.identity.remote()

    def happened(self, event: WorkerEvent) -> None:
        """Move to the next state."""
        self.state = after(self.state, event)

    def take(self, ticket: Ticket) -> None:
        """Give it a prompt."""
        ticket.worker, ticket.ref = self, self.actor.generate.remote(ticket.prompt, ticket.sampling)
        self.tickets.append(ticket)

    def send(self, weights: Weights) -> None:
        """Send the newest weights, unless the worker is not up or about to end.

        While an older version is on its way, wait for it: two at a time could arrive in the wrong order.
        """
        if self.state not in (WorkerState.STALE, WorkerState.HEALTHY):
            return
        self.happened(WorkerEvent.OUTDATED)
        if self.update is None:
            self.update = weights.send(self.actor, abort=self.settings.on_sync == "abort")
            self._update_sent_s = time.monotonic()

    def look(self, weights: Weights | None) -> None:
        """Take in what it returned since the last look, and ask for what comes next.

        Raises:
            WorkerLost: its process is gone, or a reply is overdue.
        """
        try:
            if self.state is WorkerState.STARTING:
                self._look_at_start()
            else:
                self._look_at_update(weights)
                self._look_at_heartbeat()
        except ray.exceptions.RayTaskError as error:
            raise WorkerLost(str(error.cause or error).splitlines()[0]) from error
        except ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):  # the text ends with the actor's own error
                raise WorkerLost(str(error).strip().splitlines()[-1]) from error
            raise WorkerLost(f"its process died ({type(error).__name__})") from error

    def end(self) -> None:
        """End the process at once."""
        self.state = WorkerState.DEAD
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self.actor)

    def _look_at_start(self) -> None:
        if is_done(self._ready):
            self.identity = ray.get(self._ready)
            self.happened(WorkerEvent.STARTED)
            self._moved_s = time.monotonic()
        elif (waited_s := time.monotonic() - self._born_s) > self.settings.start_timeout_s:
            raise WorkerLost(f"it was not ready within {waited_s:.0f} s")

    def _look_at_update(self, weights: Weights | None) -> None:
        if weights is None or self.state is not WorkerState.STALE:
            return
        if self.update is None:
            self.send(weights)
        elif is_done(self.update):
            confirmed: Manifest = ray.get(self.update)
            self.update = None
            if confirmed.version == weights.manifest.version:
                if confirmed.digest != weights.manifest.digest:
                    raise WorkerLost(f"it confirmed version {confirmed.version} with another digest")
                self.version = confirmed.version
                self.happened(WorkerEvent.SYNCED)
        elif time.monotonic() - self._update_sent_s > self.settings.sync_timeout_s:
            raise WorkerLost(
                f"it did not confirm version {weights.manifest.version} within {self.settings.sync_timeout_s:g} s"
            )

    def _look_at_heartbeat(self) -> None:
        now_s = time.monotonic()
        if self._ping is None:
            if now_s - self._ping_sent_s > PING_EVERY_S:
                self._ping, self._ping_sent_s = self.actor.heartbeat.remote(), now_s
        elif is_done(self._ping):
            beat: Heartbeat = ray.get(self._ping)
            self._ping, self.num_waiting = None, beat.num_waiting
            if beat.num_loops != self._num_loops or self.update is not None:  # an update has a limit of its own
                self._num_loops, self._moved_s = beat.num_loops, now_s
            # The first answers may compile for a long time.
            patience_s = self.settings.hang_timeout_s if self.num_served else self.settings.start_timeout_s
            if now_s - self._moved_s > patience_s:
                raise WorkerLost(f"its engine has not moved for {now_s - self._moved_s:.0f} s")
        elif now_s - self._ping_sent_s > self.settings.hang_timeout_s:
            raise WorkerLost(f"no sign of life for {now_s - self._ping_sent_s:.0f} s")


def is_done(ref: ObjectRef) -> bool:
    """True when a result or an error has come."""
    done: list[Any] = ray.wait([ref], timeout=0)[0]
    return bool(done)
