"""Guards the weights against bad batches: a step without finite numbers is skipped and counted, its batch kept.

The learner itself makes sure that no weight changes in such a step (see `Learner.step`). This module writes the batch
to `skipped/grpo_000012/` of the run's folder and counts the step as done; several in a row end the run.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rex_rl.config.actors import GuardsConfig
from rex_rl.errors import NonFiniteError
from rex_rl.interfaces import Learner
from rex_rl.run.checkpoints import log_warning
from rex_rl.types import Mean, TrainGroup

GROUPS, ARRAYS = "groups.jsonl", "answers.npz"


class GuardedLearner:
    """A learner that skips steps with a NonFiniteError; raises it at the `max_skipped_in_a_row`-th in a row.

    `guards/skipped_steps` counts the skipped steps of the whole run, earlier attempts included; the folder holds as
    many batches.
    """

    def __init__(
        self,
        learner: Learner,
        settings: GuardsConfig,
        *,
        stage: str,
        folder: Path,
        event: Callable[..., None] = log_warning,
    ) -> None:
        self._learner, self._settings, self._stage, self._folder = learner, settings, stage, folder
        self._event = event
        self.num_steps = 0
        """Steps done so far, skipped ones included."""
        self._num_in_a_row = 0
        self._num_skipped = len(list(folder.glob(f"{stage}_*")))

    def step(self, groups: Sequence[TrainGroup], learning_rate_factor: float) -> Mapping[str, Mean]:
        """One optimizer step, or none where it is skipped; raises NonFiniteError after too many in a row."""
        self.num_steps += 1
        metrics: Mapping[str, Mean] = {}
        try:
            _require_finite_advantages(groups)
            metrics = self._learner.step(groups, learning_rate_factor)
            self._num_in_a_row = 0
        except NonFiniteError as error:
            self._skip(groups, error)
        return {**metrics, "guards/skipped_steps": Mean(total=self._num_skipped, count=1.0)}

    def save_state(self, folder: Any) -> Callable[[], None]:
        """As the learner does."""
        return self._learner.save_state(folder)

    def load_state(self, folder: Any, num_steps: int) -> None:
        """As the learner does."""
        self._learner.load_state(folder, num_steps)
        self.num_steps = num_steps

    def _skip(self, groups: Sequence[TrainGroup], error: NonFiniteError) -> None:
        self._num_in_a_row += 1
        kept = self._keep(groups, str(error))
        limit = self._settings.max_skipped_in_a_row
        if self._num_in_a_row >= limit:
            raise NonFiniteError(
                f"{error}; {self._num_in_a_row} {self._stage} steps in a row were skipped, "
                f"guards.max_skipped_in_a_row = {limit}; {kept}"
            ) from error
        message = f"{self._stage}: step {self.num_steps} skipped: {error}; {kept}"
        self._event("step_skipped", stage=self._stage, step=self.num_steps, message=message)

    def _keep(self, groups: Sequence[TrainGroup], reason: str) -> str:
        folder = self._folder / f"{self._stage}_{self.num_steps:06d}"
        self._num_skipped += not folder.exists()  # it does where this step is repeated after a resume
        try:
            write_batch(folder, groups, reason)
        except OSError as error:
            return f"its batch could not be kept: {error}"
        return f"its batch lies in {folder}"


def write_batch(folder: Path, groups: Sequence[TrainGroup], reason: str) -> None:
    """Write `groups.jsonl` (a line a group, each with the reason) and `answers.npz` (arrays `group/answer/name`)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}
    lines: list[str] = []
    for i, group in enumerate(groups):
        facts = {
            "reason": reason,
            "prompt": asdict(group.prompt),
            "answers": [
                {"finish_reason": one.answer.finish_reason, "token_weight": one.token_weight} for one in group.answers
            ],
        }
        lines.append(json.dumps(facts, default=repr) + "\n")
        for j, one in enumerate(group.answers):
            arrays[f"{i}/{j}/tokens"] = one.answer.tokens_T
            arrays[f"{i}/{j}/logprobs"] = one.answer.logprobs_T
            arrays[f"{i}/{j}/versions"] = one.answer.versions_T
            arrays[f"{i}/{j}/advantages"] = one.advantages_T
    (folder / GROUPS).write_text("".join(lines))
    np.savez_compressed(folder / ARRAYS, allow_pickle=False, **arrays)


def _require_finite_advantages(groups: Sequence[TrainGroup]) -> None:
    """Raise NonFiniteError where a group's advantages are not finite, as one reward that is not finite makes them."""
    for group in groups:
        if not all(np.isfinite(one.advantages_T).all() for one in group.answers):
            raise NonFiniteError(f"reward of {group.prompt.uid} is not a number")
