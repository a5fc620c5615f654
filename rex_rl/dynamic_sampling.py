"""Dynamic sampling: groups that teach nothing are replaced by further prompts (DAPO, arXiv 2503.14476, section 3.2).

What is dropped counts as used, so the prompts of a run are still those of the stream in its order, each once. How many
were dropped lies in every checkpoint: with the version it says where the stream goes on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rex_rl.advantage import teaches
from rex_rl.config_schema import GrpoConfig
from rex_rl.feed import RolloutFeed
from rex_rl.interfaces import Feed, Learner, RewardPool
from rex_rl.types import Group, Mean, Scores, TrainGroup

DROPPED = "dropped_groups.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Collaborators:
    """Those of the loop that dynamic sampling takes part in."""

    feed: Feed
    rewards: RewardPool
    learner: Learner


def with_dynamic_sampling(
    feed: RolloutFeed, rewards: RewardPool, learner: Learner, settings: GrpoConfig
) -> Collaborators:
    """The three as they are where `max_replaced_groups` is 0, else with dynamic sampling between them."""
    if not settings.max_replaced_groups:
        return Collaborators(feed=feed, rewards=rewards, learner=learner)
    sampling = DynamicSampling(feed, rewards, settings)
    return Collaborators(feed=sampling, rewards=sampling, learner=DropCounter(learner, feed))


class DynamicSampling:
    """A feed that looks at the rewards before it hands groups out, and the reward pool that gives those rewards."""

    def __init__(self, feed: RolloutFeed, rewards: RewardPool, settings: GrpoConfig) -> None:
        self._feed, self._rewards, self._settings = feed, rewards, settings
        self._scores: dict[str, Scores] = {}

    def open(self, version: int) -> None:
        """The feed's own."""
        self._feed.open(version)

    def take(self, version: int) -> list[Group]:
        """P groups, oldest first. Of those that teach nothing at most `max_replaced_groups` are dropped, oldest first.

        What comes in their place is looked at too. Past the bound those that teach nothing stay in the step.
        """
        num_left = self._settings.max_replaced_groups
        kept: list[tuple[Group, Scores]] = []
        groups = self._feed.take(version)
        while groups:
            scored = list(zip(groups, self._rewards.score(groups), strict=True))
            flat = [i for i, (group, scores) in enumerate(scored) if not teaches(group, scores, self._settings)]
            dropped = flat[:num_left]
            num_left -= len(dropped)
            kept += [pair for i, pair in enumerate(scored) if i not in dropped]
            groups = self._feed.replace(version, len(dropped))
        self._scores = {group.prompt.uid: scores for group, scores in kept}
        return [group for group, _ in kept]

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """What `take` found of the groups it gave last."""
        return [self._scores[group.prompt.uid] for group in groups]


class DropCounter:
    """A learner whose steps tell, and whose checkpoints keep, how many groups were dropped."""

    def __init__(self, learner: Learner, feed: RolloutFeed) -> None:
        self._learner, self._feed = learner, feed
        self._num_told = 0

    def step(self, groups: Sequence[TrainGroup], learning_rate_factor: float) -> Mapping[str, Mean]:
        """The learner's own, with `dropped_groups`: those that taught nothing and were replaced before this step."""
        metrics = self._learner.step(groups, learning_rate_factor)
        num_new, self._num_told = self._feed.num_dropped - self._num_told, self._feed.num_dropped
        return {**metrics, "dropped_groups": Mean(total=num_new, count=1.0)}

    def save_state(self, folder: Path) -> Callable[[], None]:
        """The learner's own, and the number beside it."""
        num_dropped, wait = self._feed.num_dropped, self._learner.save_state(folder)

        def complete() -> None:
            wait()
            (folder / DROPPED).write_text(json.dumps(num_dropped))

        return complete

    def load_state(self, folder: Any, num_steps: int) -> None:
        """Put both back; a checkpoint from before dynamic sampling was switched on has dropped none."""
        self._learner.load_state(folder, num_steps)
        file = Path(folder) / DROPPED
        self._feed.num_dropped = self._num_told = json.loads(file.read_text()) if file.exists() else 0
