"""Dynamic sampling: groups that teach nothing are replaced by further prompts (DAPO, arXiv 2503.14476, section 3.2).

Dropped groups count as used, so a run still takes the prompts of the stream in order, each once. Every checkpoint holds
the number of dropped groups: with the version it gives the position at which the stream goes on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rex_rl.config.schema import GrpoConfig
from rex_rl.interfaces import Feed, Learner, RewardPool
from rex_rl.learning.advantage import teaches
from rex_rl.rollout.feed import RolloutFeed
from rex_rl.types import Group, Mean, Scores, TrainGroup

DROPPED = "dropped_groups.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Collaborators:
    """The collaborators of the loop that dynamic sampling wraps."""

    feed: Feed
    rewards: RewardPool
    learner: Learner


def with_dynamic_sampling(
    feed: RolloutFeed, rewards: RewardPool, learner: Learner, settings: GrpoConfig
) -> Collaborators:
    """The three unchanged where `max_replaced_groups` is 0, else with dynamic sampling between them."""
    if not settings.max_replaced_groups:
        return Collaborators(feed=feed, rewards=rewards, learner=learner)
    sampling = DynamicSampling(feed, rewards, settings)
    return Collaborators(feed=sampling, rewards=sampling, learner=DropCounter(learner, feed, sampling))


class DynamicSampling:
    """A feed that looks at the rewards before it hands out groups, and the reward pool that returns those rewards."""

    def __init__(self, feed: RolloutFeed, rewards: RewardPool, settings: GrpoConfig) -> None:
        self._feed, self._rewards, self._settings = feed, rewards, settings
        self._scores: dict[str, Scores] = {}
        self.raw = Mean(total=0.0, count=0.0)
        """Reward of all answers that the last `take` had scored, those of dropped groups included."""

    def open(self, version: int) -> None:
        """As the feed does."""
        self._feed.open(version)

    def take(self, version: int) -> list[Group]:
        """P groups, oldest first. At most `max_replaced_groups` that teach nothing are dropped, oldest first.

        Their replacements are checked too. Above the bound, groups that teach nothing stay in the step.
        """
        num_left = self._settings.max_replaced_groups
        kept: list[tuple[Group, Scores]] = []
        self.raw = Mean(total=0.0, count=0.0)
        groups = self._feed.take(version)
        while groups:
            scored = list(zip(groups, self._rewards.score(groups), strict=True))
            for _, scores in scored:
                self.raw += Mean(total=float(scores.total_G.sum()), count=scores.total_G.size)
            flat = [i for i, (group, scores) in enumerate(scored) if not teaches(group, scores, self._settings)]
            dropped = flat[:num_left]
            num_left -= len(dropped)
            kept += [pair for i, pair in enumerate(scored) if i not in dropped]
            groups = self._feed.replace(version, len(dropped))
        self._scores = {group.prompt.uid: scores for group, scores in kept}
        return [group for group, _ in kept]

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """The scores that `take` found for the groups it returned last."""
        return [self._scores[group.prompt.uid] for group in groups]


class DropCounter:
    """A learner that logs what was dropped before each step, and keeps the number of groups in its checkpoints."""

    def __init__(self, learner: Learner, feed: RolloutFeed, sampling: DynamicSampling) -> None:
        self._learner, self._feed, self._sampling = learner, feed, sampling
        self._num_told = 0

    def step(self, groups: Sequence[TrainGroup], learning_rate_factor: float) -> Mapping[str, Mean]:
        """The learner's step; adds `dropped_groups`: those that taught nothing and were replaced before this step.

        And `reward_raw`: the mean reward of all groups scored for it, where `reward` is of those it learns from.
        """
        metrics = self._learner.step(groups, learning_rate_factor)
        num_new, self._num_told = self._feed.num_dropped - self._num_told, self._feed.num_dropped
        return {**metrics, "dropped_groups": Mean(total=num_new, count=1.0), "reward_raw": self._sampling.raw}

    def save_state(self, folder: Path) -> Callable[[], None]:
        """Save the learner's state, and the number in a file beside it."""
        num_dropped, wait = self._feed.num_dropped, self._learner.save_state(folder)

        def complete() -> None:
            wait()
            (folder / DROPPED).write_text(json.dumps(num_dropped))

        return complete

    def load_state(self, folder: Any, num_steps: int) -> None:
        """Load both; a checkpoint from before dynamic sampling was switched on has dropped none."""
        self._learner.load_state(folder, num_steps)
        file = Path(folder) / DROPPED
        self._feed.num_dropped = self._num_told = json.loads(file.read_text()) if file.exists() else 0
