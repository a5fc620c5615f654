"""Reports the driver's status to the run controller twice a second, and brings back the wishes of users."""

import contextlib
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.cluster.controller import start_controller
from actors.cluster.handles import RayLearner
from actors.identity import Identity
from actors.rollout.pool import PoolStatus, RolloutPool
from rex_rl.rollout.balance import Load, balanced_rollouts

REPORT_S = 0.5
REPLY_S = 5.0
WINDOW_S = 60.0
"""Loads and throughput are taken over the last minute."""


class Monitor:
    """A thread beside the loop; the run's log calls `step`."""

    def __init__(self, run: str, pool: RolloutPool, learner: RayLearner, rewards: Sequence[ActorHandle]) -> None:
        self._run, self._pool, self._learner, self._rewards = run, pool, learner, list(rewards)
        self._at: dict[str, Any] = {"stage": "", "step": 0, "num_steps": 0}
        self._learn_s = 0.0
        self._loads: deque[Load] = deque()
        self._closed = threading.Event()
        self._driver = uuid.uuid4().hex
        self._controller = start_controller(run)
        self._thread = threading.Thread(target=self._report, name="monitor", daemon=True)
        self._thread.start()

    def step(self, stage: str, step: int, num_steps: int, seconds: Mapping[str, float]) -> None:
        """A step is done; `seconds` are its parts."""
        self._at = {"stage": stage, "step": step, "num_steps": num_steps}
        self._learn_s += seconds.get("learn", 0.0)

    def close(self) -> None:
        """Stop reporting."""
        self._closed.set()
        self._thread.join()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._controller)

    def _report(self) -> None:
        rewards: list[Identity] = []
        num_fulfilled = 0
        while not self._closed.wait(REPORT_S):
            try:
                rewards = rewards or ray.get([one.identity.remote() for one in self._rewards], timeout=REPLY_S)
                status = self._controller.report.remote(self._status(rewards), self._driver)
                num_wishes, rollouts = ray.get(status, timeout=REPLY_S)
            except ray.exceptions.RayActorError:  # a killed driver's controller, which ends a moment after it
                self._controller, num_fulfilled = start_controller(self._run), 0
            except ray.exceptions.RayError:  # the run is unseen until the next report
                continue
            else:
                if num_wishes > num_fulfilled:
                    num_fulfilled = num_wishes
                    self._pool.scale(rollouts)

    def _status(self, rewards: Sequence[Identity]) -> dict[str, Any]:
        pool = self._pool.status()
        load = self._load(pool)
        return {
            "run": self._run,
            **self._at,
            "workers": [
                *_rollouts(pool),
                *self._others("learner", self._learner.identities),
                *self._others("reward", rewards),
            ],
            "rollouts": pool.num_target,
            "queued_prompts": pool.num_queued,
            "prompts_in_flight": pool.num_in_flight,
            "tokens_per_s": round(load.tokens_per_s, 1),
            "rollout_busy": round(load.rollout_share, 3),
            "learner_busy": round(load.learner_share, 3),
            "balanced_rollouts": balanced_rollouts(load, num_now=len(pool.workers)),
            "goodput": round(self._pool.goodput.share, 4),
        }

    def _load(self, pool: PoolStatus) -> Load:
        """Totals since a minute ago."""
        now = Load(
            seconds=time.monotonic(),
            rollout_busy_s=pool.busy_s,
            num_rollouts=max(1, len(pool.workers)),
            learn_s=self._learn_s,
            num_tokens=pool.num_tokens,
        )
        self._loads.append(now)
        while now.seconds - self._loads[0].seconds > WINDOW_S:
            self._loads.popleft()
        return now.since(self._loads[0])

    def _others(self, role: str, identities: Sequence[Identity]) -> list[dict[str, Any]]:
        version = self._at["step"] if role == "learner" else None
        return [
            _line(role, f"{role}-{i}", identity, state="HEALTHY", version=version)
            for i, identity in enumerate(identities)
        ]


def _rollouts(pool: PoolStatus) -> list[dict[str, Any]]:
    return [
        _line("rollout", worker.name, worker.identity, state=worker.state.value, version=worker.version)
        for worker in pool.workers
    ]


def _line(role: str, name: str, identity: Identity | None, *, state: str, version: int | None) -> dict[str, Any]:
    return {
        "role": role,
        "name": name,
        "pid": identity.pid if identity else None,
        "node": identity.node if identity else None,
        "state": state,
        "weight_version": version,
    }
