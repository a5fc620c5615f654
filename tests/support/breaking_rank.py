"""`rex-rl` with a learner that breaks where a file asks it to, and notes its prompts; signals cannot do that."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from actors.cluster import cluster
from actors.learner.rank import LearnerRank
from rex_rl.cli.main import main
from rex_rl.learning.batch import MicroBatch
from rex_rl.run import tracking
from rex_rl.types import Mean

FOLDER = "BREAKING_RANK"
"""Environment variable with the folder of orders and notes."""
NAN_LOSS, NAN_WEIGHTS = "nan_loss", "nan_weights"


class LearnerRankThatBreaks(LearnerRank):
    """Obeys each order once, and removes it."""

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
    """Position of a prompt in its stream."""
    return int(uid.partition(":")[0])


def note(positions: Sequence[int]) -> None:
    """Note the prompts of a call of `step` as the name of an empty file, for which a full disk has room."""
    (folder() / f"{len(notes(folder())):04d} {' '.join(map(str, positions))}").touch()


def notes(folder: Path) -> list[tuple[int, ...]]:
    """The positions of each call of `step`, in order."""
    files = sorted(file.name for file in folder.iterdir() if " " in file.name)
    return [tuple(map(int, name.split()[1:])) for name in files]


def is_ordered(name: str) -> bool:
    """Whether an order is there; true only once."""
    order = folder() / name
    there = order.exists()
    order.unlink(missing_ok=True)
    return there


def run() -> None:
    """Run as `python -m rex_rl` does."""
    cluster.LearnerRank = LearnerRankThatBreaks
    tracking.INIT_TIMEOUT_S = 1.0  # else W&B tries to connect for half a minute
    main()


if __name__ == "__main__":
    from tests.support import breaking_rank  # by its module name, under which the learner's process finds the class

    breaking_rank.run()
