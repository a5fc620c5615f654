"""A reward worker: decodes answers from their token ids and scores them. No GPU, no images."""

from collections import defaultdict
from collections.abc import Sequence

from actors.identity import Identity, own_identity
from rex_rl.language.codec import Codec, truth_on_grid
from rex_rl.language.tasks import TASKS
from rex_rl.language.vocabulary import load_vocabulary
from rex_rl.scoring.decisions import decide
from rex_rl.scoring.reward_rule import RewardRule
from rex_rl.types import Decisions, Group, Scores


class RewardWorker:
    """Scores groups under one reward; predictions and truth are on the same grid."""

    def __init__(self, model_folder: str, rule: RewardRule, *, with_credit: bool) -> None:
        self._codec, self._rule, self._with_credit = Codec(load_vocabulary(model_folder)), rule, with_credit

    def identity(self) -> Identity:
        """Process and node."""
        return own_identity()

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """One Scores a group, in order; the groups of a task are scored together."""
        places_of: dict[str, list[int]] = defaultdict(list)
        for place, group in enumerate(groups):
            places_of[group.prompt.record.task].append(place)
        scored: dict[int, Scores] = {}
        for task, places in places_of.items():
            scored |= zip(places, self._score([groups[place] for place in places], task), strict=True)
        return [scored[place] for place in range(len(groups))]

    def _score(self, groups: Sequence[Group], task: str) -> list[Scores]:
        tokens_PG = [[answer.tokens_T for answer in group.answers] for group in groups]
        categories_P = [group.prompt.record.categories for group in groups]
        shapes_PG = self._codec.decode_groups(tokens_PG, categories_P, task=TASKS[task], with_marks=self._with_credit)
        truth_P = [truth_on_grid(group.prompt.record) for group in groups]
        scores_P = self._rule.score(shapes_PG, truth_P, task=task, prefixes=self._with_credit)
        decisions_PG: list[tuple[Decisions, ...]] = [()] * len(groups)
        if self._with_credit:
            decisions_PG = decide(
                groups, shapes_PG, scores_P, truth_P, codec=self._codec, rule=self._rule, task=TASKS[task]
            )
        return [
            Scores(
                total_G=scores.total_G,
                terms_G=dict(scores.terms_G),
                decisions_G=decisions_G,
                shapes_G=tuple(shapes_G),
            )
            for shapes_G, scores, decisions_G in zip(shapes_PG, scores_P, decisions_PG, strict=True)
        ]
