"""Sends weights from the learner to every rollout worker, through Ray's object store."""

from collections.abc import Mapping
from typing import Protocol

from ray import ObjectRef

from actors.weights.manifest import Manifest
from actors.weights.published import Published
from rex_rl.run.goodput import Goodput


class Source(Protocol):
    """The holder of the newest weights: the learner."""

    def export_weights(self, version: int, *, timeout_s: float) -> tuple[Manifest, list[ObjectRef]]:
        """Put them into the object store under a version; returns their manifest and the buckets' references."""


class Receivers(Protocol):
    """Those who serve them: the pool of rollout workers."""

    goodput: Goodput

    def publish(self, weights: Published) -> None:
        """Send them; returns when every worker that has started has confirmed them or was dropped."""


class ObjectStoreSync:
    """Invariant: when `publish(version)` returns, every serving worker has confirmed that version and its digest.

    New prompts are dispatched only afterwards, so no answer begins stale. Every phase has a bound: the export and each
    worker's confirmation take at most `timeout_s`. A worker that dies or is late is dropped, and the others go on.
    """

    def __init__(self, learner: Source, pool: Receivers, *, timeout_s: float) -> None:
        self._learner, self._pool, self._timeout_s = learner, pool, timeout_s

    def publish(self, version: int) -> Mapping[str, float]:
        """Send a version to every worker; returns metrics: the version, its size, and the run's goodput so far."""
        manifest, refs = self._learner.export_weights(version, timeout_s=self._timeout_s)
        self._pool.publish(Published(manifest=manifest, bucket_refs=refs))
        mib, goodput = manifest.num_bytes / 2**20, self._pool.goodput.share
        return {"sync/version": float(version), "sync/mib": mib, "goodput": goodput}
