"""Handles of the driver: they implement `rex_rl.interfaces` and hide `.remote` and `ray.get`."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from actors.learner import Objective
from actors.weights import Manifest
from rex_rl.batch import plan_micro_batches
from rex_rl.config import GrpoConfig, LearnerConfig, OptimiserConfig, SftConfig
from rex_rl.errors import RolloutError, SyncError
from rex_rl.types import Group, Mean, Prompt, Sampling, Scores, TrainGroup


@dataclass(frozen=True, slots=True)
class RolloutTicket:
    """A submitted prompt: which worker has it, and the reference its group will come from."""

    worker: str
    ref: ObjectRef


class RayRolloutPool:
    """Rollout workers; a prompt goes to the one with the fewest unanswered prompts, the first of them on a tie."""

    def __init__(self, workers: Mapping[str, ActorHandle]) -> None:
        self.workers = dict(workers)
        self._waiting: Counter[str] = Counter(dict.fromkeys(workers, 0))

    def submit(self, prompt: Prompt, sampling: Sampling) -> RolloutTicket:
        """Start answering a prompt."""
        name = min(self.workers, key=lambda worker: self._waiting[worker])
        self._waiting[name] += 1
        return RolloutTicket(name, self.workers[name].generate.remote(prompt, sampling))

    def result(self, ticket: RolloutTicket) -> Group:
        """Wait for a group; whatever went wrong on the worker becomes a RolloutError with its cause."""
        try:
            return ray.get(ticket.ref)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error  # the worker's own error, where it is one
            raise RolloutError(f"{ticket.worker}: {str(cause).splitlines()[0]}") from cause
        finally:
            self._waiting[ticket.worker] -= 1


class RayRewardPool:
    """Reward workers; a step's groups are dealt out evenly."""

    def __init__(self, workers: Sequence[ActorHandle]) -> None:
        self._workers = list(workers)

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """One Scores a group, in order."""
        bounds = np.linspace(0, len(groups), len(self._workers) + 1).round().astype(int)
        slices = [groups[start:end] for start, end in itertools.pairwise(bounds)]
        refs = [worker.score.remote(part) for worker, part in zip(self._workers, slices, strict=True) if part]
        return [scores for part in ray.get(refs) for scores in part]


class RayLearner:
    """The learner's ranks as one."""

    def __init__(self, ranks: Sequence[ActorHandle], config: LearnerConfig) -> None:
        self.ranks, self._config = list(ranks), config
        self._model_folder = ""
        self._num_pieces = 1

    def begin_sft(self, model_folder: str, settings: SftConfig) -> None:
        """Load a model into every rank and make ready for SFT."""
        self._begin(model_folder, settings, Objective(name="sft"))

    def begin_grpo(self, model_folder: str, settings: GrpoConfig) -> None:
        """Load a model into every rank and make ready for GRPO; KL's reference is this model."""
        objective = Objective(
            name="grpo",
            temperature=settings.temperature,
            mask_tokens=settings.token_mask == "specials",
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            kl_beta=settings.kl_beta,
        )
        self._begin(model_folder, settings, objective)

    def _begin(self, model_folder: str, optimiser: OptimiserConfig, objective: Objective) -> None:
        self._model_folder, self._num_pieces = model_folder, optimiser.gradient_accumulation
        self._all("begin_stage", model_folder, optimiser, objective)

    def step(self, groups: Sequence[TrainGroup], learning_rate_factor: float) -> Mapping[str, Mean]:
        """One optimizer step over all groups, shared among the ranks; metrics are joined over ranks."""
        plan = plan_micro_batches(
            groups,
            num_ranks=len(self.ranks),
            token_budget=self._config.micro_batch_tokens,
            num_at_least=self._num_pieces,
        )
        refs = [rank.step.remote(part, learning_rate_factor) for rank, part in zip(self.ranks, plan, strict=True)]
        joined: dict[str, Mean] = {}
        for metrics in _get(refs):
            for name, mean in metrics.items():
                joined[name] = joined[name] + mean if name in joined else mean
        return joined

    def answer_logprobs(self, groups: Sequence[TrainGroup]) -> list[np.ndarray]:
        """What the current policy gives to given answers; every rank computes it, the first one's counts."""
        return self._all("answer_logprobs", groups)[0]

    def export_weights(self, version: int) -> tuple[Manifest, list[ObjectRef]]:
        """The current weights in the object store."""
        return self._all("export_weights", version)[0]

    def save_model(self, folder: Path) -> None:
        """Write a Hugging Face folder."""
        self._all("save_model", str(folder), like=self._model_folder)

    def save_state(self, folder: Path) -> None:
        """Write weights and optimizer state into a folder."""
        self._all("save_state", str(folder / "learner.safetensors"))

    def load_state(self, folder: Path, num_steps: int) -> None:
        """Put back what save_state wrote."""
        self._all("load_state", str(folder / "learner.safetensors"), num_steps)

    def _all(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        return _get([getattr(rank, method).remote(*args, **kwargs) for rank in self.ranks])


def _get(refs: Sequence[ObjectRef]) -> list[Any]:
    """Results of all ranks; the project's own errors come back as themselves, not wrapped by Ray."""
    try:
        return ray.get(list(refs))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from error


class ObjectStoreSync:
    """Publishes the learner's weights to every rollout worker through Ray's object store.

    Invariant: when `publish(version)` returns, every worker in the pool confirmed that version and its digest. New
    prompts are dispatched only afterwards, so no answer is born stale.
    """

    def __init__(self, learner: RayLearner, pool: RayRolloutPool, *, timeout_s: float) -> None:
        self._learner, self._pool, self._timeout_s = learner, pool, timeout_s

    def publish(self, version: int) -> Mapping[str, float]:
        """Send a version and wait until it is confirmed everywhere, at most `timeout_s`."""
        manifest, refs = self._learner.export_weights(version)
        pending = {worker.update_weights.remote(manifest, refs): name for name, worker in self._pool.workers.items()}
        done, late = ray.wait(list(pending), num_returns=len(pending), timeout=self._timeout_s)
        if late:
            names = ", ".join(pending[ref] for ref in late)
            raise SyncError(f"{names} did not confirm version {version} within {self._timeout_s:g} s")
        for ref in done:
            confirmed: Manifest = ray.get(ref)
            if confirmed.digest != manifest.digest:
                raise SyncError(f"{pending[ref]} confirmed version {confirmed.version} with another digest")
        return {"sync/version": float(version), "sync/mib": manifest.num_bytes / 2**20}
