"""What stands between a bad batch and the weights: a step without finite numbers is skipped, kept, and counted.

The learner itself makes sure that no weight changes in such a step (see `Learner.step`). Here is what the run makes of
it: the batch is written to `skipped/grpo_000012/` of the run's folder, the step counts as done, and several in a row
end the run.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rex_rl.checkpoints import log_warning
from rex_rl.config_actors import GuardsConfig
from rex_rl.errors import NonFiniteError
from rex_rl.interfaces import Learner
from rex_rl.types import Mean, TrainGroup

GROUPS, ARRAYS = "groups.jsonl", "answers.npz"


class GuardedLearner:
    """A learner whose steps do not raise NonFiniteError before `max_skipped_in_a_row` of them did.

    `guards/skipped_steps` counts the skipped steps of the whole run, earlier attempts included: as many batches lie in
    the folder.
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
        """Done so far, the skipped ones included."""
        self._num_in_a_row = 0
        self._num_skipped = len(list(folder.glob(f"{stage}_*")))

    def step(self, groups: Sequence[TrainGroup], learning_rate_factor: float) -> Mapping[str, Mean]:
        """One optimizer step, or none where it is skipped; raises NonFiniteError at too many in a row."""
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
        """The learner's own."""
        return self._learner.save_state(folder)

    def load_state(self, folder: Any, num_steps: int) -> None:
        """The learner's own."""
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
        self._num_skipped += not folder.exists()  # it does where this step comes again after a resume
        try:
            write_batch(folder, groups, reason)
        except OSError as error:
            return f"its batch could not be kept: {error}"
        return f"its batch lies in {folder}"


def write_batch(folder: Path, groups: Sequence[TrainGroup], reason: str) -> None:
    """A batch as `groups.jsonl` (a line a group, the reason in each) and `answers.npz` (arrays `group/answer/name`)."""
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
    """A reward that is no number makes all advantages of its group such: the group has no reward then."""
    for group in groups:
        if not all(np.isfinite(one.advantages_T).all() for one in group.answers):
            raise NonFiniteError(f"reward of {group.prompt.uid} is not a number")
