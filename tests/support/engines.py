"""Real actors for the engine tests: a small Ray cluster in this process, a tiny random model, sampled groups."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

from actors.bench.rollout import CountedWorker
from actors.cluster.handles import RayLearner
from actors.learner.rank import LearnerRank, Seat
from actors.rollout.pool import RolloutPool
from actors.rollout.seat import CONCURRENCY_GROUPS
from rex_rl.config.actors import LearnerConfig, LoraConfig, RolloutConfig
from rex_rl.config.schema import ModelConfig
from rex_rl.language.tasks import TASKS
from rex_rl.types import Group, Prompt, Record, ScoredAnswer, TrainGroup

MAX_PIXELS = 36 * 28 * 28
"""Less than the scenes have and the model folder allows, so engine and learner agree only if both apply it."""


MAX_PROMPTS = 16
"""That a worker answers at a time."""
ROLLOUT = RolloutConfig(max_sequences=128, max_model_len=512, kv_cache_gib=0.25, hang_timeout_s=60, max_deaths_in_row=1)
"""A small CPU engine."""


def model_config(model: Path) -> ModelConfig:
    """The model's configuration in float32."""
    return ModelConfig(path=str(model), max_pixels=MAX_PIXELS)


RANK_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "DS_ACCELERATOR", "OMP_NUM_THREADS")
"""Environment variables that a learner rank sets."""


class OddWorker(CountedWorker):
    """A worker whose engine can be told to fail at its next step, or to answer with a few tokens only."""

    def say_only(self, *texts: str) -> None:
        """Sample from these tokens alone."""
        self._engine._allowed_ids = [self._vocabulary.id_of(text) for text in texts]

    def say_anything(self) -> int:
        """Sample from all tokens of an answer again; returns how many requests the engine still keeps."""
        self._engine._allowed_ids = self._vocabulary.sampled_ids.tolist()
        kept = self._engine.call(lambda engine: engine.output_processor)
        return len(kept.parent_requests) + len(kept.request_states) + len(kept.external_req_ids)

    def fail_next_step(self) -> None:
        """Raise once in the middle of an engine step, as a library may."""

        def sabotage(engine: Any) -> None:
            step = engine.step

            def fail() -> None:
                engine.step = step
                step()
                raise RuntimeError("out of luck")

            engine.step = fail

        self._engine.call(sabotage)


def start_worker(model: Path, name: str) -> ActorHandle:
    """A rollout worker on one thread, whose answers hold text, coordinates and delimiters only."""
    options = {"max_concurrency": MAX_PROMPTS, "concurrency_groups": CONCURRENCY_GROUPS}
    kind = ray.remote(num_cpus=0.1, runtime_env=one_thread(), **options)(OddWorker)
    return kind.remote(name, str(model), model_config(model), ROLLOUT, mask_tokens=True)


def start_pool(start: Callable[[str], ActorHandle]) -> RolloutPool:
    """A pool of one worker, with its engine up and without weights yet."""
    pool = RolloutPool(start, settings=ROLLOUT)
    pool.wait_started(300)
    return pool


def only_worker(pool: RolloutPool) -> ActorHandle:
    """The actor of a pool of one worker."""
    (worker,) = pool.status().workers
    return worker.actor


def start_learner(num_ranks: int, *, zero_stage: int, lora_rank: int = 0) -> RayLearner:
    """A learner on gloo; with a rank above 0 it trains adapters on all parts of the model."""
    config = LearnerConfig(
        num_ranks=num_ranks,
        micro_batch_tokens=2048,
        lora=LoraConfig(rank=lora_rank, vision=("qkv",), projector=("mlp.2",)),
        deepspeed={"zero_optimization": {"stage": zero_stage}},
    )
    kind = ray.remote(LearnerRank).options(num_cpus=0.1, runtime_env=one_thread())

    def start() -> list[ActorHandle]:
        ranks = [kind.remote(config, bfloat16=False, max_pixels=MAX_PIXELS) for _ in range(num_ranks)]
        address, port = ray.get(ranks[0].meeting_point.remote())
        seats = [
            Seat(rank=rank, num_ranks=num_ranks, address=address, port=port, on_gpu=False, backend="gloo", threads=1)
            for rank in range(num_ranks)
        ]
        ray.get([rank.connect.remote(seat) for rank, seat in zip(ranks, seats, strict=True)])
        return ranks

    return RayLearner(start, config)


@contextmanager
def lone_rank(config: LearnerConfig, *, bfloat16: bool = False) -> Iterator[LearnerRank]:
    """A learner rank in this process, alone in its group; the caller restores the environment variables it sets."""
    rank = LearnerRank(config, bfloat16=bfloat16)
    address, port = rank.meeting_point()
    rank.connect(Seat(rank=0, num_ranks=1, address=address, port=port, on_gpu=False, backend="gloo", threads=1))
    yield rank
    import deepspeed

    deepspeed.comm.destroy_process_group()


def one_thread() -> dict[str, dict[str, str]]:
    """The environment for one OpenMP thread, which OpenMP reads when torch is imported."""
    return {"env_vars": {"OMP_NUM_THREADS": "1"}}


def prompt_for(image: Path, size: tuple[int, int], categories: Sequence[str] = ("red circle", "blue square")) -> Prompt:
    """A detection prompt about an image."""
    record = Record(
        id=image.stem,
        image=str(image),
        task="detection",
        categories=tuple(categories),
        objects=(),
        width=size[0],
        height=size[1],
        source=str(image),
    )
    return Prompt(uid=image.stem, record=record, question=TASKS["detection"].question(categories))


def as_batch(groups: Sequence[Group], *, seed: int = 0) -> list[TrainGroup]:
    """Groups with random advantages, so that a step moves every part of the model."""
    rng = np.random.default_rng(seed)
    num_answers = sum(len(group.answers) for group in groups)
    return [
        TrainGroup(
            prompt=group.prompt,
            answers=tuple(
                ScoredAnswer(
                    answer=answer,
                    advantages_T=rng.normal(size=answer.tokens_T.size).astype(np.float32),
                    token_weight=1.0 / (num_answers * answer.tokens_T.size),
                )
                for answer in group.answers
            ),
        )
        for group in groups
    ]


def renamed(prompt: Prompt, uid: str) -> Prompt:
    """The same question under another name."""
    return replace(prompt, uid=uid)
