"""The actors of `rex-rl bench step`: rollout worker and learner rank, each held to a core of its own.

So each side has its own hardware in both modes, as it would have its own GPU. A speedup then comes from the overlap,
and not from a second core that the sequential run left idle.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.bench.setup import BenchCluster, bench_config, local_cluster
from actors.learner.rank import LearnerRank
from actors.rollout.worker import RolloutWorker
from rex_rl.bench.step import MAX_ANSWER_TOKENS, MAX_SEQUENCES, step_settings
from rex_rl.config.load import Config
from rex_rl.errors import UserError

ROLLOUT_CORE, LEARNER_CORE = 0, 1
"""Places in the sorted list of cores that this process may use."""


class HeldRolloutWorker(RolloutWorker):
    """A rollout worker on the first core."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        hold_to(ROLLOUT_CORE)
        super().__init__(*args, **kwargs)


class HeldLearnerRank(LearnerRank):
    """A learner rank on the second core."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        hold_to(LEARNER_CORE)
        super().__init__(*args, **kwargs)


def hold_to(place: int) -> None:
    """Hold this process to one core: its threads, and every thread they start later."""
    core = sorted(os.sched_getaffinity(0))[place]
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), {core})


@contextlib.contextmanager
def held_cluster() -> Iterator[tuple[BenchCluster, Config, Path]]:
    """Rollout worker, learner rank and reward worker of a run, with its configuration and its random model."""
    num_cores = len(os.sched_getaffinity(0))
    if num_cores < 2:
        raise UserError(f"bench step: needs two cores, one for each side, and this process may use {num_cores}")
    from rex_rl.shapes.tiny import write_random_model

    with tempfile.TemporaryDirectory() as root, local_cluster():
        model = write_random_model(Path(root) / "tiny")
        config = bench_config(
            "bench-step",
            Path(root),
            model={"path": str(model)},
            grpo=step_settings(max_staleness=1, answer_tokens=MAX_ANSWER_TOKENS, num_steps=1).model_dump(),
            rollout={"num_cpus": 0.1, "max_sequences": MAX_SEQUENCES, "kv_cache_gib": 0.5, "max_model_len": 512},
            evaluation={"num_images": 2, "max_answer_tokens": MAX_ANSWER_TOKENS},
        )
        kinds = {RolloutWorker: HeldRolloutWorker, LearnerRank: HeldLearnerRank}
        cluster = BenchCluster(config, str(model), roles=("learner", "rollout", "reward"), kinds=kinds)
        with contextlib.closing(cluster):
            yield cluster, config, model
