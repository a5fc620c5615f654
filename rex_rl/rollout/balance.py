"""Which side of a run waits for the other, and how many rollout workers would balance them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Totals up to a moment, or between two moments."""

    seconds: float
    rollout_busy_s: float
    """Sum over the workers."""
    num_rollouts: int
    learn_s: float
    num_tokens: int

    def since(self, before: "Load") -> "Load":
        """The totals between two moments."""
        return Load(
            seconds=self.seconds - before.seconds,
            rollout_busy_s=self.rollout_busy_s - before.rollout_busy_s,
            num_rollouts=self.num_rollouts,
            learn_s=self.learn_s - before.learn_s,
            num_tokens=self.num_tokens - before.num_tokens,
        )

    @property
    def tokens_per_s(self) -> float:
        """Answer tokens served a second."""
        return self.num_tokens / self.seconds if self.seconds else 0.0

    @property
    def rollout_share(self) -> float:
        """Share of the workers' time in which they had something to answer."""
        return min(1.0, self.rollout_busy_s / (self.seconds * self.num_rollouts)) if self.seconds else 0.0

    @property
    def learner_share(self) -> float:
        """Share of the time in which the learner learned."""
        return min(1.0, self.learn_s / self.seconds) if self.seconds else 0.0


def balanced_rollouts(load: Load, *, num_now: int) -> int | None:
    """Workers that would write a step's answers in the time the learner takes for it; None where nothing is known.

    Assumes that work divides evenly: a step's answers cost workers x busy seconds.

    >>> load = Load(seconds=10.0, rollout_busy_s=16.0, num_rollouts=2, learn_s=2.0, num_tokens=100)
    >>> load.rollout_share, load.learner_share, balanced_rollouts(load, num_now=2)
    (0.8, 0.2, 8)
    """
    if not load.learner_share or not load.rollout_share:
        return None
    return max(1, math.ceil(num_now * load.rollout_share / load.learner_share - 1e-9))
