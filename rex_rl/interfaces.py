"""Protocols of what the loops use. launch.py builds the real ones on Ray; tests use small fakes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rex_rl.types import Group, Mean, Prompt, Sampling, Scores, TrainGroup

Ticket = Any
"""What a pool returns for a submitted prompt, to ask for its group later."""


class RolloutPool(Protocol):
    """Workers that answer prompts."""

    def submit(self, prompt: Prompt, sampling: Sampling) -> Ticket:
        """Start answering; returns at once."""

    def result(self, ticket: Ticket) -> Group:
        """Wait for a submitted prompt's group; raises RolloutError when it could not be made."""

    def discard(self, tickets: Sequence[Ticket]) -> None:
        """Forget submitted prompts whose groups nobody will ask for."""


class Feed(Protocol):
    """Sends prompts through rollout and hands out a step's groups at a time."""

    def open(self, version: int) -> None:
        """Dispatch the prompts that may be in flight while `version` is served, after as many steps."""

    def take(self, version: int) -> list[Group]:
        """Wait for the groups of step `version`, counted from 0."""


class RewardPool(Protocol):
    """Workers that score groups."""

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """One Scores a group, in order."""


class Learner(Protocol):
    """The ranks that hold and train the policy."""

    def step(self, groups: Sequence[TrainGroup], learning_rate_factor: float) -> Mapping[str, Mean]:
        """One optimizer step; raises NonFiniteError before any weight changes."""

    def save_state(self, folder: Any) -> Callable[[], None]:
        """Copy weights and optimizer state and begin to write them into a folder; steps may follow at once.

        The returned function waits until all is on disk; it raises CheckpointError or OSError where writing fails.
        """

    def load_state(self, folder: Any, num_steps: int) -> None:
        """Load what save_state wrote after `num_steps` steps."""


class WeightSync(Protocol):
    """Sends weights from the learner to the engines."""

    def publish(self, version: int) -> Mapping[str, float]:
        """Send `version`; returns metrics of what it cost once every serving engine has confirmed it."""


class Progress(Protocol):
    """Keeps a stage's state between processes."""

    def restore(self, learner: Learner) -> int:
        """Load the newest intact checkpoint into the learner; returns its step, 0 on a fresh run.

        Raises Stopped when the run was asked to end.
        """

    def after_step(self, step: int, learner: Learner) -> None:
        """Begin a checkpoint where one is due; raises Stopped, after a whole one, when the run was asked to end."""
