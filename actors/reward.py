"""A reward worker: decodes answers from their token ids and scores them. No GPU, no images."""

from collections.abc import Sequence

from actors.identity import Identity, own_identity
from rex_rl.codec import Codec, truth_on_grid
from rex_rl.reward_rule import RewardRule
from rex_rl.tasks import TASKS
from rex_rl.types import Group, Scores
from rex_rl.vocabulary import load_vocabulary


class RewardWorker:
    """Scores groups under one reward; the same grid for what is said and what is true."""

    def __init__(self, model_folder: str, rule: RewardRule, *, credit: str) -> None:
        self._codec, self._rule, self._credit = Codec(load_vocabulary(model_folder)), rule, credit

    def identity(self) -> Identity:
        """Process and node."""
        return own_identity()

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """One Scores a group, in order."""
        return [self._score(group) for group in groups]

    def _score(self, group: Group) -> Scores:
        record = group.prompt.record
        tokens_G = [answer.tokens_T for answer in group.answers]
        shapes_G = tuple(self._codec.decode_group(tokens_G, task=TASKS[record.task], categories=record.categories))
        scores = self._rule.score(shapes_G, truth_on_grid(record), task=record.task, credit=self._credit)
        return Scores(
            total_G=scores.total_G,
            terms_G=dict(scores.terms_G),
            gains_GN=scores.gains_GN,
            shapes_G=shapes_G,
            fault_cost_G=scores.fault_cost_G,
        )
