"""The way of the weights from the learner to every rollout worker, through Ray's object store."""

from collections.abc import Mapping

from actors.pools import RayLearner
from actors.rollout_pool import RolloutPool
from actors.worker import Published


class ObjectStoreSync:
    """Invariant: when `publish(version)` returns, every worker that serves confirmed that version and its digest.

    New prompts are dispatched only afterwards, so no answer is born stale. Every phase has a bound: export and each
    worker's confirmation take at most `timeout_s`; a worker that dies or is late is dropped, and the rest goes on.
    """

    def __init__(self, learner: RayLearner, pool: RolloutPool, *, timeout_s: float) -> None:
        self._learner, self._pool, self._timeout_s = learner, pool, timeout_s

    def publish(self, version: int) -> Mapping[str, float]:
        """Send a version to every worker; returns what it cost and how much of the run's time was of use so far."""
        manifest, refs = self._learner.export_weights(version, timeout_s=self._timeout_s)
        self._pool.publish(Published(manifest=manifest, bucket_refs=refs))
        mib, goodput = manifest.num_bytes / 2**20, self._pool.goodput.share
        return {"sync/version": float(version), "sync/mib": mib, "goodput": goodput}
