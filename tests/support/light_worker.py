"""A rollout worker without an engine, for the pool's own logic: a real Ray actor in a real process that can be killed.

It keeps the real worker's contract: no answer before a sync, one manifest confirmed, answers cut short by an abort.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

from actors.identity import Identity, own_identity
from actors.rollout.seat import CONCURRENCY_GROUPS, CONTROL_GROUP, Heartbeat
from actors.weights.manifest import Manifest
from rex_rl.errors import AbortedError, SyncError
from rex_rl.types import Answer, FinishReason, Group, Prompt, Sampling

NUM_THREADS = 64
"""Prompts it takes at a time; more have to wait."""


class LightWorker:
    """Answers `slots` prompts at a time, each after `answer_s`, with tokens that say which weights wrote them."""

    def __init__(self, name: str, answer_s: float, sync_s: float, fails: str, slots: int) -> None:
        if fails:
            raise ValueError(fails)
        self._name, self._answer_s, self._sync_s = name, answer_s, sync_s
        self._version = -1
        self._aborts = 0
        self._num_waiting = 0
        """Changed only while the condition is held."""
        self._condition, self._slots = threading.Condition(), threading.Semaphore(slots)

    @ray.method(concurrency_group=CONTROL_GROUP)
    def identity(self) -> Identity:
        """Process and node."""
        return own_identity()

    @ray.method(concurrency_group=CONTROL_GROUP)
    def heartbeat(self) -> Heartbeat:
        """Always moving: only a stopped process is silent."""
        return Heartbeat(num_loops=time.monotonic_ns(), num_waiting=self._num_waiting)

    @ray.method(concurrency_group=CONTROL_GROUP)
    def update_weights(self, manifest: Manifest, bucket_refs: list[Any], *, abort: bool = False) -> Manifest:
        """Take a version."""
        if abort:
            self.abort_all()
        time.sleep(self._sync_s)
        self._version = manifest.version
        return manifest

    @ray.method(concurrency_group=CONTROL_GROUP)
    def abort_all(self) -> None:
        """Abort the prompts in flight."""
        with self._condition:
            self._aborts += 1
            self._condition.notify_all()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._num_waiting += 1
        try:
            yield
        finally:
            self._num_waiting -= 1

    def generate(self, prompt: Prompt, sampling: Sampling) -> Group:
        """Answer a prompt after `answer_s`."""
        if self._version < 0:
            raise SyncError(f"{self._name} was asked to serve before its first weight sync")
        with self._slots, self._condition, self._counted():
            aborts, version = self._aborts, self._version
            if self._condition.wait_for(lambda: self._aborts > aborts, timeout=self._answer_s):
                raise AbortedError("given up")
        answer = Answer(
            tokens_T=np.array([version]),
            logprobs_T=np.zeros(1, dtype=np.float32),
            versions_T=np.array([version]),
            finish_reason=FinishReason.STOP,
        )
        return Group(prompt=prompt, answers=(answer,) * sampling.num_answers, worker=self._name)


def spawn_light(
    name: str, *, answer_s: float = 0.02, sync_s: float = 0.0, fails: str = "", slots: int = 64
) -> ActorHandle:
    """Start a light worker, or one that `fails` with that reason."""
    kind = ray.remote(num_cpus=0, max_concurrency=NUM_THREADS, concurrency_groups=CONCURRENCY_GROUPS)(LightWorker)
    return kind.remote(name, answer_s, sync_s, fails, slots)
