"""The feed: keeps `(max_staleness + 1) * P` groups in flight and hands them out oldest first.

Synchronous and overlapped training are the same loop: `max_staleness` says how far rollout may run ahead of learning.
Failed groups are handled here alone: counted by reason and dispatched again; above a limit the run stops. An error
never becomes a reward.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable

from rex_rl.config.schema import GrpoConfig
from rex_rl.data.stream import PromptStream
from rex_rl.errors import RolloutError, StalenessError
from rex_rl.interfaces import RolloutPool, Ticket
from rex_rl.types import Group, Prompt, Sampling

FEW_PROMPTS = 10
"""Least number of groups the share of failures is taken of, so that a first failure need not end a small run."""


class RolloutFeed:
    """Groups of one step at a time, in the order of the prompt stream."""

    def __init__(
        self,
        pool: RolloutPool,
        stream: PromptStream,
        settings: GrpoConfig,
        *,
        seed: int,
        tell: Callable[..., None] = lambda event, **facts: None,
    ) -> None:
        """`tell(event, **facts)` logs every group that failed."""
        self._pool, self._stream, self._settings, self._seed, self._tell = pool, stream, settings, seed, tell
        self._in_flight: deque[tuple[Prompt, Ticket]] = deque()
        self._next = 0
        self._num_prompts = 0
        self.failures: Counter[str] = Counter()
        """Reason -> failed attempts so far."""
        self.num_dropped = 0
        """Groups of the whole run so far that `replace` replaced; must be restored where a run resumes."""

    def open(self, version: int) -> None:
        """Dispatch prompts up to the bound. `version` is what the engines serve, and the number of steps learned.

        The position follows from the version and the number dropped: after v steps, v * P + `num_dropped` prompts are
        used, wherever a run resumed.
        """
        size = self._settings.prompts_per_step
        self._next = max(self._next, version * size + self.num_dropped)
        last = min(version + self._settings.max_staleness + 1, self._settings.num_steps)
        limit = max(self._next, last * size + self.num_dropped)
        self._num_prompts += limit - self._next
        for prompt in self._stream.prompts(self._next, limit - self._next):
            self._in_flight.append((prompt, self._dispatch(prompt)))
        self._next = limit

    def take(self, version: int) -> list[Group]:
        """Wait for the P oldest groups; each is checked against the staleness bound."""
        return self._take(version, self._settings.prompts_per_step)

    def replace(self, version: int, count: int) -> list[Group]:
        """The next oldest groups in place of `count` <= P dropped ones of step `version`; dispatches as many prompts.

        So as many as before are in flight, and no group will be older when its step comes.
        """
        self.num_dropped += count
        self.open(version)
        return self._take(version, count)

    def _take(self, version: int, count: int) -> list[Group]:
        oldest = [self._in_flight.popleft() for _ in range(count)]
        groups = [self._finish(prompt, ticket) for prompt, ticket in oldest]
        for group in groups:
            behind = version - min(answer.oldest_version for answer in group.answers)
            if behind > (limit := self._settings.max_staleness):
                raise StalenessError(f"{group.prompt.uid}: written {behind} versions ago, max_staleness is {limit}")
        return groups

    def close(self) -> None:
        """Forget the prompts in flight: whoever goes on from a checkpoint asks for them again."""
        self._pool.discard([ticket for _, ticket in self._in_flight])
        self._in_flight.clear()

    def _dispatch(self, prompt: Prompt) -> Ticket:
        sampling = Sampling(
            num_answers=self._settings.group_size,
            temperature=self._settings.temperature,
            max_tokens=self._settings.max_answer_tokens,
            seed=sampling_seed(self._seed, prompt.uid),
            max_repeats=self._settings.max_repeats,
        )
        return self._pool.submit(prompt, sampling)

    def _finish(self, prompt: Prompt, ticket: Ticket) -> Group:
        while True:
            try:
                return self._pool.result(ticket)
            except RolloutError as error:
                self._count_failure(prompt, error)
                ticket = self._dispatch(prompt)

    def _count_failure(self, prompt: Prompt, error: RolloutError) -> None:
        self.failures[type(error.__cause__ or error).__name__] += 1
        num_failed, share = self.failures.total(), self._settings.max_failed_fraction
        if num_failed > share * max(self._num_prompts, FEW_PROMPTS):
            raise RolloutError(
                f"{prompt.uid}: {error}; {num_failed} failures in {self._num_prompts} groups are more than "
                f"grpo.max_failed_fraction = {share:g} allows"
            ) from error
        self._tell("group_failed", prompt=prompt.uid, reason=str(error), failures=num_failed)


def sampling_seed(seed: int, uid: str) -> int:
    """A seed for one prompt's answers: the same in every run with this seed, whichever worker answers.

    >>> sampling_seed(0, "000001:a") == sampling_seed(0, "000001:a") != sampling_seed(1, "000001:a")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{uid}".encode()).digest()[:4], "big")
