"""A reward worker: decodes answers from their token ids and scores them. No GPU, no images."""

from collections.abc import Sequence

from rewards.compose import RewardWeights, Truth, score_group
from rex_rl.codec import Codec, truth_on_grid
from rex_rl.tasks import TASKS
from rex_rl.types import Group, Scores
from rex_rl.vocabulary import load_vocabulary


class RewardWorker:
    """Scores groups under one reward; the same grid for what is said and what is true."""

    def __init__(self, model_folder: str, *, name: str, weights: RewardWeights, credit: str) -> None:
        self._codec = Codec(load_vocabulary(model_folder))
        self._name, self._weights, self._credit = name, weights, credit

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """One Scores a group, in order."""
        return [self._score(group) for group in groups]

    def _score(self, group: Group) -> Scores:
        record = group.prompt.record
        grid = truth_on_grid(record)
        shapes_G = tuple(
            self._codec.decode(answer.tokens_T, geometry=TASKS[record.task].geometry, categories=record.categories)
            for answer in group.answers
        )
        scores = score_group(
            shapes_G,
            Truth(labels=grid.labels, bins_NK=grid.bins_NK, categories=grid.categories),
            weights=self._weights,
            name=self._name,
            credit=self._credit,
        )
        return Scores(total_G=scores.total_G, terms_G=dict(scores.terms_G), gains_GN=scores.gains_GN, shapes_G=shapes_G)
