"""The actors of one run: started together, reached through the handles of handles.py, ended together."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.cluster.handles import RayLearner, RayRewardPool, get_all
from actors.cluster.monitor import Monitor
from actors.cluster.placement import join, plan_actors, require_placeable
from actors.cluster.reward_worker import RewardWorker
from actors.learner.rank import LearnerRank, Seat
from actors.rollout.pool import RolloutPool
from actors.rollout.seat import CONCURRENCY_GROUPS
from actors.rollout.worker import RolloutWorker
from actors.weights.published import FolderWeights
from actors.weights.sync import ObjectStoreSync
from rex_rl.config.load import Config
from rex_rl.errors import LearnerLostError
from rex_rl.scoring.reward_rule import RewardRule

MAX_EVALUATED = 512
"""Held-out prompts a rollout worker holds at a time, one thread each; an engine decodes some hundred at most."""
SCORE_TRIES = 3
"""Deaths of reward workers that one slice of a step survives; with more, the slice is the cause."""


class Cluster:
    """Learner ranks, rollout workers and reward workers of a run, ready to work."""

    def __init__(
        self,
        config: Config,
        model_folder: str,
        *,
        roles: Sequence[str],
        tell: Callable[..., None] = lambda event, **facts: None,
    ) -> None:
        """`tell(event, **facts)` notes what happens to the workers."""
        self._config, self._model_folder = config, model_folder
        self._actors: list[ActorHandle] = []
        self.rollouts = RolloutPool(
            self._rollout_worker,
            settings=config.rollout,
            tell=tell,
            deterministic=config.deterministic,
        )
        self._scorers = self._reward_workers() if "reward" in roles else []
        self.rewards = RayRewardPool(self._scorers, timeout_s=config.reward_workers.timeout_s)
        self.learner = RayLearner(self._learner_ranks if "learner" in roles else list, config.learner)
        self.rollouts.wait_started(config.rollout.start_timeout_s)
        self.sync = ObjectStoreSync(self.learner, self.rollouts, timeout_s=config.rollout.sync_timeout_s)
        self._monitor: Monitor | None = None

    def start_monitor(self) -> Monitor:
        """Make this run visible to `rex-rl status` and `rex-rl scale` under its name."""
        self._monitor = Monitor(self._config.name, self.rollouts, self.learner, self._scorers)
        return self._monitor

    def serve_folder(self) -> None:
        """Let the rollout workers answer with the weights of their model folder: no learner publishes others."""
        self.rollouts.publish(FolderWeights())

    def restart_learner(self, stage: str, step: int) -> None:
        """Start new learner ranks, which go on after `step`; the rollout workers stay, and wait."""
        self.rollouts.goodput.go_back(stage, step)
        self.learner.restart()

    def close(self) -> None:
        """End every actor of this run and leave the cluster; one started here ends with it."""
        self.end_actors()
        ray.shutdown()

    def end_actors(self) -> None:
        """End every actor of this run; the cluster stays."""
        if self._monitor is not None:
            self._monitor.close()
        self.rollouts.close()
        for actor in self._actors:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)

    def _start(self, kind: type, *args: Any, **kwargs: Any) -> ActorHandle:
        options = kwargs.pop("options")
        actor = ray.remote(**options)(kind).remote(*args, **kwargs)
        self._actors.append(actor)
        return actor

    def _rollout_worker(self, name: str) -> ActorHandle:
        rollout = self._config.rollout
        groups_in_flight = self._config.grpo.prompts_per_step * (self._config.grpo.max_staleness + 1)
        return self._start(
            RolloutWorker,
            name,
            self._model_folder,
            self._config.model,
            rollout,
            mask_tokens=self._config.grpo.token_mask == "specials",
            options={
                "num_cpus": rollout.num_cpus,
                "num_gpus": rollout.num_gpus,
                "max_concurrency": groups_in_flight + min(self._config.evaluation.num_images, MAX_EVALUATED),
                "concurrency_groups": CONCURRENCY_GROUPS,
                "runtime_env": thread_environment(rollout.threads),
            },
        )

    def _learner_ranks(self) -> list[ActorHandle]:
        learner = self._config.learner
        ranks = [
            self._start(
                LearnerRank,
                learner,
                bfloat16=self._config.model.dtype == "bfloat16",
                max_pixels=self._config.model.max_pixels,
                options={
                    "num_cpus": learner.num_cpus,
                    "num_gpus": learner.num_gpus,
                    "runtime_env": thread_environment(learner.threads),
                },
            )
            for _ in range(learner.num_ranks)
        ]
        try:
            self._seat(ranks)
        except LearnerLostError:  # as on a node that went away: ranks left over would hold the next ones' places
            for rank in ranks:
                ray.kill(rank)
            raise
        return ranks

    def _seat(self, ranks: Sequence[ActorHandle]) -> None:
        """Connect new ranks; waits for their places on the cluster too."""
        learner, timeout_s = self._config.learner, self._config.learner.hang_timeout_s
        ((address, port),) = get_all([ranks[0].meeting_point.remote()], timeout_s=timeout_s)
        on_gpu = learner.num_gpus > 0
        backend = learner.backend if learner.backend != "auto" else ("nccl" if on_gpu else "gloo")
        seats = [
            Seat(
                rank=rank,
                num_ranks=learner.num_ranks,
                address=address,
                port=port,
                on_gpu=on_gpu,
                backend=backend,
                threads=learner.threads,
            )
            for rank in range(learner.num_ranks)
        ]
        get_all([rank.connect.remote(seat) for rank, seat in zip(ranks, seats, strict=True)], timeout_s=timeout_s)

    def _reward_workers(self) -> list[ActorHandle]:
        return [
            self._start(
                RewardWorker,
                self._model_folder,
                RewardRule(self._config.reward),
                with_credit=self._config.grpo.advantage.credit != "none",
                options={
                    "num_cpus": self._config.reward_workers.num_cpus,
                    "runtime_env": thread_environment(1),
                    "max_restarts": -1,  # it holds no state, so Ray itself may start it anew
                    "max_task_retries": SCORE_TRIES,
                },
            )
            for _ in range(self._config.reward_workers.num_workers)
        ]


def thread_environment(count: int) -> dict[str, dict[str, str]]:
    """The actor environment that sets OpenMP's threads: OpenMP reads it once, when torch is imported."""
    return {"env_vars": {"OMP_NUM_THREADS": str(count)}}


def connect(config: Config, roles: Sequence[str]) -> str:
    """Join the configured cluster, or the one a job runs in, or start one here; check that all actors fit.

    Returns the address under which other processes find it.

    Raises:
        PlacementError: there is no such cluster, or no room in it for the actors of these roles.
    """
    cluster = config.cluster
    if not ray.is_initialized():
        join(cluster.address, key="cluster.address", num_cpus=cluster.num_cpus)
    plans = [plan for plan in plan_actors(config) if plan.role in roles]
    require_placeable(plans, wait_s=cluster.wait_s)
    return str(ray.get_runtime_context().gcs_address)
