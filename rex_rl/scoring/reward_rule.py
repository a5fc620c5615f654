"""One configuration's reward, for reward workers and canaries alike: `rewards` with the weights of a task, plus the
user's own terms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rewards import GroupScores, RewardWeights, Truth, score_groups
from rex_rl.config.reward import RewardConfig
from rex_rl.scoring.custom_terms import load_terms
from rex_rl.types import Shapes


class RewardRule:
    """The reward of an answer under a configuration. Can be sent to another process that can import the same terms."""

    def __init__(self, reward: RewardConfig) -> None:
        """Raises ConfigError where a term of the user's own cannot be imported."""
        self._config, self._terms = reward, load_terms(reward)

    @property
    def name(self) -> str:
        """A key of `rewards.REWARDS`."""
        return self._config.name

    def weights_of(self, task: str) -> RewardWeights | None:
        """Weights of the built-in terms; None for a published formula, which has no terms."""
        return RewardWeights(**self._config.weights_of(task)) if self.name == "matched" else None

    def score(
        self, predicted_PG: Sequence[Sequence[Shapes]], truth_P: Sequence[Truth], *, task: str, prefixes: bool = False
    ) -> list[GroupScores]:
        """Rewards of the answers to some prompts of a task: `rewards.score_groups`, each own term under its name.

        Prefixes are of the built-in terms: a function is asked about whole answers only. Raises RunError where a
        function gives what is not a valid reward.
        """
        scores_P = self.score_built_in(predicted_PG, truth_P, task=task, prefixes=prefixes)
        own_weights = self._config.custom_weights_of(task)
        return [
            self._with_own_terms(scores, predicted_G, truth, own_weights)
            for scores, predicted_G, truth in zip(scores_P, predicted_PG, truth_P, strict=True)
        ]

    def score_built_in(
        self, predicted_PG: Sequence[Sequence[Shapes]], truth_P: Sequence[Truth], *, task: str, prefixes: bool
    ) -> list[GroupScores]:
        """`score` without the user's own terms."""
        weights = RewardWeights(**self._config.weights_of(task))
        return score_groups(predicted_PG, truth_P, weights=weights, name=self.name, prefixes=prefixes)

    def _with_own_terms(
        self, scores: GroupScores, predicted_G: Sequence[Shapes], truth: Truth, own_weights: Mapping[str, float]
    ) -> GroupScores:
        total_G, terms_G = scores.total_G, dict(scores.terms_G)
        for term in self._terms:
            terms_G[term.name] = term.values(predicted_G, truth)
            total_G = total_G + own_weights[term.name] * terms_G[term.name]
        return replace(scores, total_G=total_G, terms_G=terms_G)
