"""`rex-rl bench sync`: how fast weights reach the rollout workers, digests included, against copying them in memory.

The learner's and the workers' own code runs (export, buckets, digests, object store, confirmation). Only the network on
either side is replaced by a list of tensors, so that its size can be chosen and DeepSpeed and vLLM are not needed.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from actors.bench.setup import SYNC_TIMEOUT_S, local_cluster
from actors.cluster.cluster import thread_environment
from actors.cluster.handles import RayLearner
from actors.learner.deepspeed_engine import LearnerEngine
from actors.learner.rank import LearnerRank, Seat
from actors.rollout.engine import BASE_VERSION, EngineThread
from actors.rollout.pool import RolloutPool
from actors.rollout.seat import CONCURRENCY_GROUPS
from actors.rollout.worker import RolloutWorker
from actors.weights.sync import ObjectStoreSync
from rex_rl.bench.figure import Figure, median_s
from rex_rl.config.actors import LearnerConfig, RolloutConfig
from rex_rl.errors import RunError

T = TypeVar("T")
NUM_BYTES = 256 * 2**20
NUM_WORKERS = 2
ROUNDS = 7
SIDE = 2048
"""Matrices of 2048 x 2048 in bfloat16, 8 MiB each: the width of a 3B model."""
START_TIMEOUT_S = 60.0
STEP_S = 0.5
"""Pause between two versions. In a run a step lies there, in which the object store frees the version before. Without
it each version would go to memory that was never touched, which takes three times as long."""


def synthetic_tensors(num_bytes: int) -> list[tuple[str, torch.Tensor]]:
    """Named random matrices of about `num_bytes` in total, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    count = max(1, num_bytes // (2 * SIDE * SIDE))
    shape = (SIDE, SIDE)
    return [
        (f"model.layers.{i}.weight", torch.randint(-(2**15), 2**15, shape, generator=generator, dtype=torch.int16))
        for i in range(count)
    ]


class _Tensors:
    """What `export_weights` needs of a DeepSpeed engine."""

    def __init__(self, num_bytes: int) -> None:
        self._tensors = [(name, tensor.view(torch.bfloat16)) for name, tensor in synthetic_tensors(num_bytes)]

    def named_tensors(self) -> list[tuple[str, torch.Tensor]]:
        """Every weight."""
        return self._tensors


class _Parameters:
    """What a worker's update needs of the engine and its thread: parameters to copy into."""

    num_unfinished = 0

    def __init__(self, num_bytes: int) -> None:
        self.tensors = {
            name: torch.zeros_like(tensor).view(torch.bfloat16) for name, tensor in synthetic_tensors(num_bytes)
        }

    @property
    def num_loops(self) -> int:
        """Never stands still."""
        return time.monotonic_ns()

    def call(self, function: Callable[[Any], T]) -> T:
        """Run it at once: there is no engine thread."""
        return function(self)

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> None:
        """Copy a bucket into the parameters; the other phases have nothing to do."""
        if method == "update_weights":
            for packed in args[0]["bucket"]:
                self.tensors[packed.name].copy_(packed.tensor())

    def reset_prefix_cache(self, reset_running_requests: bool) -> bool:
        """Nothing is cached."""
        return True

    def reset_mm_cache(self) -> None:
        """Nothing is cached."""

    def reset_encoder_cache(self) -> None:
        """Nothing is cached."""

    def set_weight_version(self, version: str) -> None:
        """Nothing is served."""


class SyntheticLearner(LearnerRank):
    """A learner rank that holds tensors and no model."""

    def __init__(self, num_bytes: int) -> None:
        self._engine = cast(LearnerEngine, _Tensors(num_bytes))
        self._seat = Seat(rank=0, num_ranks=1, address="", port=0, on_gpu=False, backend="gloo", threads=1)


class SyntheticWorker(RolloutWorker):
    """A rollout worker that holds parameters and no engine."""

    def __init__(self, name: str, num_bytes: int) -> None:
        self.name = name
        self._parameters = _Parameters(num_bytes)
        self._engine = cast(EngineThread, self._parameters)
        self._version, self._vision_digest = BASE_VERSION, ""

    def is_right(self, num_bytes: int) -> bool:
        """True when every parameter equals the learner's."""
        held = self._parameters.tensors
        return all(torch.equal(held[name].view(torch.int16), tensor) for name, tensor in synthetic_tensors(num_bytes))


def bench_sync(*, num_bytes: int = NUM_BYTES, rounds: int = ROUNDS) -> list[Figure]:
    """One figure: bytes of the model times number of workers, per second of `publish`."""
    with local_cluster():
        options = {"num_cpus": 0.1, "runtime_env": thread_environment(1)}
        workers: list[ActorHandle] = []

        def spawn(name: str) -> ActorHandle:
            kind = ray.remote(concurrency_groups=CONCURRENCY_GROUPS, max_concurrency=1, **options)(SyntheticWorker)
            workers.append(kind.remote(name, num_bytes))
            return workers[-1]

        def start() -> list[ActorHandle]:
            return [ray.remote(SyntheticLearner).options(**options).remote(num_bytes)]

        learner = RayLearner(start, LearnerConfig())
        settings = RolloutConfig(num_workers=NUM_WORKERS, hang_timeout_s=SYNC_TIMEOUT_S, max_deaths_in_row=1)
        pool = RolloutPool(spawn, settings=settings)
        try:
            pool.wait_started(START_TIMEOUT_S)
            figure = _measure(ObjectStoreSync(learner, pool, timeout_s=SYNC_TIMEOUT_S), rounds)
            if not all(ray.get([worker.is_right.remote(num_bytes) for worker in workers])):
                raise RunError("bench sync: a worker's parameters are not the learner's")
        finally:
            pool.close()
            for rank in learner.ranks:
                ray.kill(rank)
    return [figure]


def _measure(sync: ObjectStoreSync, rounds: int) -> Figure:
    versions = itertools.count()
    num_bytes = round(sync.publish(next(versions))["sync/mib"] * 2**20)
    source = np.random.default_rng(0).integers(256, size=num_bytes, dtype=np.uint8)
    target = np.empty_like(source)
    publish_s, copy_s, _ = median_s(
        lambda: sync.publish(next(versions)),
        lambda: np.copyto(target, source),
        lambda: time.sleep(STEP_S),
        rounds=rounds,
    )
    served, copied = NUM_WORKERS * num_bytes / publish_s / 1e9, num_bytes / copy_s / 1e9
    return Figure(
        name="sync_bandwidth",
        value=served,
        unit="GB/s",
        baseline=copied,
        ratio=served / copied,
        meaning=f"{num_bytes / 2**20:.0f} MiB to {NUM_WORKERS} workers, times workers, digests checked, in "
        f"{publish_s * 1e3:.0f} ms; baseline: one copy in memory",
    )
