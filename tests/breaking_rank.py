"""`rex-rl` with a learner that breaks where a file asks it to, and notes its prompts: no signal can do that."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from actors import cluster
from actors.learner import LearnerRank
from rex_rl import tracking
from rex_rl.batch import MicroBatch
from rex_rl.cli import main
from rex_rl.types import Mean

FOLDER = "BREAKING_RANK"
"""Variable that names the folder of orders and notes."""
NAN_LOSS, NAN_WEIGHTS = "nan_loss", "nan_weights"


class LearnerRankThatBreaks(LearnerRank):
    """Obeys each order once, and takes it away."""

    def step(self, micro_batches: Sequence[MicroBatch], learning_rate_factor: float) -> Mapping[str, Mean]:
        """Note the prompts."""
        if self._grpo is not None:
            note(sorted({position(group.prompt.uid) for batch in micro_batches for group in batch.groups}))
        return super().step(micro_batches, learning_rate_factor)

    def _require_finite_weights(self) -> None:
        """The weights may have lost their numbers by then."""
        if is_ordered(NAN_WEIGHTS):
            next(p for p in self._engine.policy.parameters() if p.requires_grad).data.view(-1)[0] = math.nan
        super()._require_finite_weights()

    def _loss(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, dict[str, Mean]]:
        loss, metrics = super()._loss(micro_batch)
        return (loss * math.nan if is_ordered(NAN_LOSS) else loss), metrics


def folder() -> Path:
    return Path(os.environ[FOLDER])


def position(uid: str) -> int:
    """Of a prompt in its stream."""
    return int(uid.partition(":")[0])


def note(positions: Sequence[int]) -> None:
    """What a call of `step` learns from, as the name of an empty file: there is room for that on a full disk."""
    (folder() / f"{len(notes(folder())):04d} {' '.join(map(str, positions))}").touch()


def notes(folder: Path) -> list[tuple[int, ...]]:
    """The positions of each call of `step`, in order."""
    files = sorted(file.name for file in folder.iterdir() if " " in file.name)
    return [tuple(map(int, name.split()[1:])) for name in files]


def is_ordered(name: str) -> bool:
    """Once."""
    order = folder() / name
    there = order.exists()
    order.unlink(missing_ok=True)
    return there


def run() -> None:
    """As `python -m rex_rl`."""
    cluster.LearnerRank = LearnerRankThatBreaks
    tracking.INIT_TIMEOUT_S = 1.0  # else W&B knocks at a closed door for half a minute
    main()


if __name__ == "__main__":
    from tests import breaking_rank  # under its name, by which the learner's process finds the class

    breaking_rank.run()
