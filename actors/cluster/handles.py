"""The driver's handles of its actors: they implement `rex_rl.interfaces` and hide `.remote` and `ray.get`."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from actors.identity import Identity
from actors.weights.manifest import Manifest
from rex_rl.config.actors import LearnerConfig
from rex_rl.config.schema import OptimiserConfig
from rex_rl.errors import CheckpointError, LearnerLostError, RunError
from rex_rl.learning.batch import plan_micro_batches
from rex_rl.types import Group, Mean, Scores, TrainGroup

FAILING_TOGETHER_S = 5.0
"""How long to wait for a death after a rank's error: a rank that dies breaks the collective, and the others' errors may
come first."""
STATE_POLL_S = 0.2
"""Pause between two questions to a rank whether its state is written."""


class RayRewardPool:
    """Reward workers, which share a step's groups evenly. Ray restarts one that died and repeats its calls."""

    def __init__(self, workers: Sequence[ActorHandle], *, timeout_s: float) -> None:
        self._workers, self._timeout_s = list(workers), timeout_s

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """One Scores a group, in order.

        Raises:
            RunError: the rewards did not come in time, or a worker died over its slice at every try.
        """
        bounds = np.linspace(0, len(groups), len(self._workers) + 1).round().astype(int)
        slices = [groups[start:end] for start, end in itertools.pairwise(bounds)]
        refs = [worker.score.remote(part) for worker, part in zip(self._workers, slices, strict=True) if part]
        try:
            return [scores for part in ray.get(refs, timeout=self._timeout_s) for scores in part]
        except ray.exceptions.GetTimeoutError as error:
            raise RunError(f"reward_workers.timeout_s = {self._timeout_s:g}: no rewards within it") from error
        except ray.exceptions.RayActorError as error:
            raise RunError(
                f"a reward worker died over its answers each time they were tried ({type(error).__name__})"
            ) from error


class RayLearner:
    """The learner's ranks as one. A rank that dies or hangs is a LearnerLostError; `restart` replaces all ranks."""

    def __init__(self, start: Callable[[], list[ActorHandle]], config: LearnerConfig) -> None:
        self._start, self._config = start, config
        self.ranks = start()
        self.identities: list[Identity] = self._all("identity")
        self._model_folder = ""
        self._num_pieces = 1

    def begin(self, model_folder: str, settings: OptimiserConfig) -> None:
        """Load a model into every rank and prepare it for SFT, or for GRPO with GRPO's settings.

        The reference of GRPO's KL is this model.
        """
        self._model_folder, self._num_pieces = model_folder, settings.gradient_accumulation
        self._all("begin_stage", model_folder, settings)

    def step(self, groups: Sequence[TrainGroup], learning_rate_factor: float) -> Mapping[str, Mean]:
        """One optimizer step over all groups, shared among the ranks; metrics are joined over ranks."""
        plan = plan_micro_batches(
            groups,
            num_ranks=len(self.ranks),
            token_budget=self._config.micro_batch_tokens,
            num_at_least=self._num_pieces,
            prefix_sharing=self._config.prefix_sharing,
        )
        refs = [rank.step.remote(part, learning_rate_factor) for rank, part in zip(self.ranks, plan, strict=True)]
        joined: dict[str, Mean] = {}
        for metrics in get_all(refs, timeout_s=self._config.hang_timeout_s):
            for name, mean in metrics.items():
                joined[name] = joined[name] + mean if name in joined else mean
        return joined

    def answer_logprobs(self, groups: Sequence[TrainGroup]) -> list[np.ndarray]:
        """Log-probabilities of given answers under the current policy: [answers] of [T]. Every rank computes them; the
        first rank's are returned.
        """
        return self._all("answer_logprobs", groups)[0]

    def export_weights(self, version: int, *, timeout_s: float) -> tuple[Manifest, list[ObjectRef]]:
        """Put the current weights into the object store; returns their manifest and the buckets' references."""
        return get_all([rank.export_weights.remote(version) for rank in self.ranks], timeout_s=timeout_s)[0]

    def save_model(self, folder: Path) -> None:
        """Write a Hugging Face folder."""
        self._all("save_model", str(folder), like=self._model_folder)

    def save_state(self, folder: Path) -> Callable[[], None]:
        """Copy weights and optimizer state and begin to write them; the returned function waits for the file."""
        self._all("save_state", str(folder / "learner.safetensors"))
        return partial(_wait_until_written, self.ranks[0], self._config.hang_timeout_s)

    def load_state(self, folder: Path, num_steps: int) -> None:
        """Load what save_state wrote; `num_steps` is not used, as the file holds the number of updates."""
        self._all("load_state", str(folder / "learner.safetensors"))

    def restart(self) -> None:
        """End the ranks that are left and start as many new ones, which hold no model yet."""
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks = self._start()
        self.identities = self._all("identity")

    def _all(self, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        refs = [getattr(rank, method).remote(*args, **kwargs) for rank in self.ranks]
        return get_all(refs, timeout_s=self._config.hang_timeout_s)


def _wait_until_written(rank: ActorHandle, timeout_s: float) -> None:
    """Ask between the rank's steps, as it does one thing at a time; a rank that dies left no whole file."""
    try:
        while not get_all([rank.state_written.remote()], timeout_s=timeout_s)[0]:
            time.sleep(STATE_POLL_S)
    except LearnerLostError as error:
        raise CheckpointError(str(error)) from error


def get_all(refs: Sequence[ObjectRef], *, timeout_s: float) -> list[Any]:
    """Results of all ranks; the project's own errors come back as themselves, not wrapped by Ray.

    The first death ends the wait: with nccl the others would hang in their collective.

    Raises:
        LearnerLostError: a rank died, or they did not all answer in time.
    """
    results: dict[ObjectRef, Any] = {}
    pending, failed = list(refs), None
    while pending:
        done, pending = ray.wait(pending, timeout=timeout_s if failed is None else FAILING_TOGETHER_S)
        if not done and failed is None:
            raise LearnerLostError(f"{len(pending)} of {len(refs)} learner ranks gave no answer within {timeout_s:g} s")
        if not done:
            break
        try:
            results[done[0]] = ray.get(done[0])
        except ray.exceptions.RayActorError as error:
            raise LearnerLostError(f"a learner rank died ({type(error).__name__})") from error
        except ray.exceptions.RayError as error:
            failed = failed or error
    if failed is not None:
        raise (getattr(failed, "cause", None) or failed) from failed
    return [results[ref] for ref in refs]
