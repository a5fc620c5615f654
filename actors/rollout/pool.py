"""The rollout workers of a run: prompts go to healthy workers, and the prompts of a lost worker go to others.

A thread of the driver watches the workers all the time, also while the loop waits for the learner. It notices deaths by
Ray's own error and hangs by a heartbeat, starts replacements, and brings them the newest weights.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from actors.rollout.seat import Ticket, Worker, WorkerLost, is_done
from actors.weights.published import Weights
from rex_rl.config.actors import RolloutConfig
from rex_rl.errors import AbortedError, PlacementError, RolloutError
from rex_rl.rollout.worker_states import WorkerEvent, WorkerState
from rex_rl.run.goodput import Goodput
from rex_rl.types import Group, Prompt, Sampling

TICK_S = 0.25
WAIT_S = 0.5
"""How long a wait for one result lasts before the pool checks for other events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStatus:
    """The pool's state at a moment."""

    workers: tuple[Worker, ...]
    num_target: int
    num_queued: int
    """Prompts that wait for a healthy worker."""
    num_in_flight: int
    """Prompts that workers were answering at their last heartbeat."""
    num_tokens: int
    """Answer tokens served so far."""
    busy_s: float
    """Seconds in which workers had something to answer, added up over workers."""


class RolloutPool:
    """`spawn(name)` starts a worker's actor; `tell(event, **facts)` notes what happened to one."""

    def __init__(
        self,
        spawn: Callable[[str], ActorHandle],
        *,
        settings: RolloutConfig,
        tell: Callable[..., None] = lambda event, **facts: None,
        deterministic: bool = False,
    ) -> None:
        self._spawn, self._settings, self._tell, self._deterministic = spawn, settings, tell, deterministic
        self._changed = threading.Condition(threading.RLock())
        self._workers: dict[str, Worker] = {}
        self._num_target = settings.num_workers
        self._weights: Weights | None = None
        self._queue: deque[Ticket] = deque()
        self._deaths: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        """Name -> why the last worker of that name was lost."""
        self._retired: set[str] = set()
        self._num_submitted = self._num_tokens = 0
        self._busy_s = 0.0
        self.goodput = Goodput()
        """The run's. The pool counts as lost the time in which the loop waited for prompts of a lost worker, or for
        prompts that no worker could take; the time until the loss was noticed is included."""
        self._closed = threading.Event()
        self._fill()
        self._thread = threading.Thread(target=self._look_after, name="rollout-pool", daemon=True)
        self._thread.start()

    # What the feed and the evaluation use.

    def submit(self, prompt: Prompt, sampling: Sampling) -> Ticket:
        """Send a prompt to a worker, or queue it where no worker is healthy."""
        with self._changed:
            ticket = Ticket(prompt=prompt, sampling=sampling, number=self._num_submitted)
            self._num_submitted += 1
            self._dispatch(ticket)
        return ticket

    def result(self, ticket: Ticket) -> Group:
        """Wait for a group, whichever worker writes it in the end.

        Raises:
            RolloutError: the worker failed at this prompt, or no worker is left and none will start.
        """
        begun_s = time.monotonic()
        try:
            while (group := self._look_for(ticket)) is None:
                pass
            return group
        finally:
            if ticket.was_held_up:
                self.goodput.lose(begun_s, time.monotonic())

    def _look_for(self, ticket: Ticket) -> Group | None:
        """Wait for a group for up to `WAIT_S`; None where it is not there yet."""
        with self._changed:
            self._require_hope()
            worker, ref = ticket.worker, ticket.ref
            if worker is None:
                ticket.was_held_up = True
                self._changed.wait(WAIT_S)
                return None
        if not ray.wait([ref], timeout=WAIT_S)[0]:
            return None
        try:
            group: Group = ray.get(ref)
        except ray.exceptions.RayActorError:
            with self._changed:
                if ticket.worker is worker:  # else it went to another worker already
                    self._lose(worker, "its process died")
            return None
        except ray.exceptions.RayError as error:
            with self._changed:
                self._settle(ticket)
                cause = getattr(error, "cause", None) or error  # the worker's own error, where there is one
                if not isinstance(cause, AbortedError):
                    raise RolloutError(f"{worker.name}: {str(cause).splitlines()[0]}") from cause
                self._dispatch(ticket)
            return None
        self._served(ticket, worker, group)
        return group

    def discard(self, tickets: Sequence[Ticket]) -> None:
        """Forget prompts whose answers nobody will ask for; those in flight are aborted."""
        with self._changed:
            for worker in {id(ticket.worker): ticket.worker for ticket in tickets if ticket.worker}.values():
                worker.actor.abort_all.remote()
            for ticket in tickets:
                self._settle(ticket)

    # What the sync, the launcher and the controller use.

    def wait_started(self, timeout_s: float) -> None:
        """Wait until every worker's engine is up.

        Raises:
            PlacementError: some were not ready in time. RolloutError: one could not start at all.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while any(worker.state is WorkerState.STARTING for worker in self._workers.values()):
                if self._reasons:
                    name, reason = next(iter(self._reasons.items()))
                    raise RolloutError(f"{name} could not start: {reason}")
                if time.monotonic() > deadline_s:
                    late = sum(worker.state is WorkerState.STARTING for worker in self._workers.values())
                    raise PlacementError(
                        f"{late} of {len(self._workers)} rollout workers were not ready within "
                        f"rollout.start_timeout_s = {timeout_s:g} s"
                    )
                self._changed.wait(WAIT_S)

    def publish(self, weights: Weights) -> None:
        """Send new weights to all running workers; those that die or are late are dropped, and the others serve.

        Returns when every worker that had started has confirmed the version or was dropped. Workers that start later
        get the same weights before they serve.

        Raises:
            RolloutError: no worker is left and none will start.
        """
        with self._changed:
            self._weights, self._num_submitted = weights, 0
            waited = [worker for worker in self._workers.values() if worker.state is not WorkerState.STARTING]
            for worker in waited:
                worker.send(weights)
        while pending := [worker for worker in waited if worker.state is WorkerState.STALE]:
            with self._changed:  # the watching thread takes confirmations in too
                updates = [worker.update for worker in pending if worker.update is not None]
            ray.wait(updates, num_returns=1, timeout=TICK_S)
            with self._changed:
                for worker in pending:
                    self._look_at(worker)
        with self._changed:
            self._require_hope()
        if self._settings.on_sync == "abort":
            self._ask_anew()
        self.goodput.resume()

    def _ask_anew(self) -> None:
        """Submit all aborted prompts again at once; each at its turn in `result` would run one after the other."""
        with self._changed:
            tickets = [ticket for worker in self._workers.values() for ticket in worker.tickets]
        if tickets:  # prompts that no worker has begun get the new weights anyway, and are not waited for
            ray.wait([ticket.ref for ticket in tickets], num_returns=len(tickets), timeout=WAIT_S)
        with self._changed:
            for ticket in tickets:
                if ticket.ref is not None and is_done(ticket.ref) and _is_given_up(ticket.ref):
                    self._settle(ticket)
                    self._dispatch(ticket)

    def scale(self, num_workers: int) -> None:
        """Set the number of workers; 0 pauses. Workers given up are tried again."""
        with self._changed:
            if num_workers != self._num_target:
                self._tell("scaled", rollouts=num_workers, before=self._num_target)
            self._num_target = num_workers
            self._retired.clear()
            self._deaths.clear()
            self._fill()

    def status(self) -> PoolStatus:
        """Workers, queues and totals."""
        with self._changed:
            return PoolStatus(
                workers=tuple(self._workers.values()),
                num_target=self._num_target,
                num_queued=len(self._queue),
                num_in_flight=sum(worker.num_waiting for worker in self._workers.values()),
                num_tokens=self._num_tokens,
                busy_s=self._busy_s,
            )

    def close(self) -> None:
        """End the watching thread and every worker."""
        self._closed.set()
        self._thread.join()
        for worker in self._workers.values():
            worker.end()

    # Internal; methods that change state hold the lock.

    def _dispatch(self, ticket: Ticket) -> None:
        """Send to the healthy worker with the fewest prompts, or by number in a deterministic run."""
        healthy = [worker for worker in self._workers.values() if worker.state is WorkerState.HEALTHY]
        if not healthy:
            ticket.worker, ticket.ref = None, None
            self._queue.append(ticket)
        elif self._deterministic:
            healthy.sort(key=lambda worker: worker.name)
            healthy[ticket.number % len(healthy)].take(ticket)
        else:
            min(healthy, key=lambda worker: len(worker.tickets)).take(ticket)

    def _settle(self, ticket: Ticket) -> None:
        """Close a ticket: nothing more is owed for it."""
        if ticket.worker is not None and ticket in ticket.worker.tickets:
            ticket.worker.tickets.remove(ticket)
        if ticket in self._queue:
            self._queue.remove(ticket)

    def _served(self, ticket: Ticket, worker: Worker, group: Group) -> None:
        with self._changed:
            self._settle(ticket)
            self._num_tokens += sum(answer.tokens_T.size for answer in group.answers)
            worker.num_served += 1
            self._deaths.pop(worker.name, None)

    def _require_hope(self) -> None:
        if self._num_target and not self._workers and len(self._retired) == self._num_target:
            reasons = "; ".join(f"{name}: {self._reasons[name]}" for name in sorted(self._retired))
            raise RolloutError(f"no rollout worker is left: {reasons}")

    def _look_after(self) -> None:
        while not self._closed.wait(TICK_S):
            with self._changed:
                for worker in list(self._workers.values()):
                    self._busy_s += TICK_S * bool(worker.num_waiting)
                    self._look_at(worker)
                self._fill()

    def _look_at(self, worker: Worker) -> None:
        if worker.state is WorkerState.DEAD:
            return
        before, is_new = worker.state, worker.version is None
        try:
            worker.look(self._weights)
        except WorkerLost as lost:
            self._lose(worker, str(lost))
        if worker.state is WorkerState.DRAINING and not worker.tickets:
            self._tell("rollout_worker_ended", worker=worker.name)
            self._remove(worker)
        if worker.state is not before:
            if worker.state is WorkerState.HEALTHY:
                self._reasons.pop(worker.name, None)
                if is_new:
                    self._tell("rollout_worker_serves", worker=worker.name, version=worker.version)
                waiting, self._queue = self._queue, deque()
                for ticket in waiting:
                    self._dispatch(ticket)
            self._changed.notify_all()

    def _lose(self, worker: Worker, reason: str) -> None:
        """Give a worker up and pass its prompts on; retire its place where it was lost too often in a row."""
        if worker.state is WorkerState.DEAD:
            return
        drained = worker.state is WorkerState.DRAINING
        self._reasons[worker.name] = reason
        self._deaths[worker.name] += 1
        if not drained and self._deaths[worker.name] >= self._settings.max_deaths_in_row:
            self._retired.add(worker.name)
        self._tell(
            "rollout_worker_lost",
            worker=worker.name,
            pid=worker.identity.pid if worker.identity else None,
            reason=reason,
            num_moved=len(worker.tickets),
            retired=worker.name in self._retired,
        )
        owed = self._remove(worker)
        for ticket in owed:
            ticket.was_held_up = True
            self._dispatch(ticket)
        self._changed.notify_all()

    def _remove(self, worker: Worker) -> list[Ticket]:
        """End a worker; returns the prompts it had not answered."""
        self._workers.pop(worker.name, None)
        worker.end()
        owed, worker.tickets = worker.tickets, []
        return owed

    def _fill(self) -> None:
        """Start missing workers, drain surplus ones."""
        wanted = {f"rollout-{i}" for i in range(self._num_target)}
        for name in sorted(wanted - self._workers.keys() - self._retired):
            self._workers[name] = Worker(name=name, actor=self._spawn(name), settings=self._settings)
        for name in self._workers.keys() - wanted:
            if self._workers[name].state is not WorkerState.DRAINING:
                self._workers[name].happened(WorkerEvent.DRAIN)


def _is_given_up(ref: ObjectRef) -> bool:
    """Whether a prompt's result is that its answers were aborted."""
    try:
        ray.get(ref)
    except ray.exceptions.RayError as error:
        return isinstance(getattr(error, "cause", None), AbortedError)
    return False
