"""`rex-rl bench step`: time of a GRPO step with rollout beside learning (`max_staleness` 1), against one after the
other.

The real loop on real actors (actors/bench/step.py starts them). Answers of a model with random weights hardly ever end
by themselves, so their token limit sets how long both sides work. It is chosen so that they take about equally long.
"""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rex_rl import grpo
from rex_rl.bench.figure import Figure
from rex_rl.config.schema import GrpoConfig, GrpoRates
from rex_rl.data.stream import PromptStream
from rex_rl.interfaces import Learner
from rex_rl.rollout.feed import RolloutFeed
from rex_rl.types import Record

NUM_PROMPTS, GROUP_SIZE = 16, 8
MAX_SEQUENCES = 32
"""Of a step's 128 answers: decoding this many at a time takes about as long as learning, on one core each."""
MAX_ANSWER_TOKENS = 256
FIRST_ANSWER_TOKENS = 48
NUM_STEPS = 8
ROUNDS = 3
"""Runs of each mode, by turns: other load on a shared machine lasts longer than one run."""
NUM_TRIES = 4
BALANCED = 1.1
"""Sides whose times differ by no more than this factor are balanced."""
EDGE_STEPS = 2
"""Steps at either end that do not count: the pipeline fills and drains, and the first steps compile."""


_PARTS = ("whole", "rollout", "learn", "sync")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """Median seconds of a run's middle steps."""

    whole: float
    rollout: float
    """Waiting for the step's groups: their whole rollout where nothing overlaps."""
    learn: float
    sync: float
    num_failed: int = 0
    """Groups that failed and were asked for again: with any, the times mean little."""

    @classmethod
    def middle(cls, runs: Sequence["StepTimes"]) -> "StepTimes":
        """The median of every part over several runs."""
        parts = {part: statistics.median(getattr(run, part) for run in runs) for part in _PARTS}
        return cls(**parts, num_failed=sum(run.num_failed for run in runs))

    @property
    def text(self) -> str:
        """The parts as text for people."""
        failed = f", {self.num_failed} groups failed" if self.num_failed else ""
        rest = self.whole - self.rollout - self.learn - self.sync
        parts = {"waiting for rollout": self.rollout, "learning": self.learn, "sync": self.sync, "rest": rest}
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items()) + failed

    @property
    def slower_side(self) -> float:
        """Least time of a step, however well the sides overlap."""
        return max(self.rollout, self.learn)


class Stopwatch:
    """Replaces log, checkpoints, evaluation and canaries, and takes the times."""

    def __init__(self) -> None:
        self.figures = {"none": 0.0}
        self._ends: list[float] = []
        self._parts: list[Mapping[str, float]] = []

    def restore(self, learner: Learner) -> int:
        """A fresh run."""
        return 0

    def after_step(self, step: int, learner: Learner) -> None:
        """No checkpoints."""

    def metrics(self, step: int) -> dict[str, float]:
        """No canaries."""
        return {}

    def evaluate(self, stage: str, step: int) -> dict[str, float]:
        """No held-out figures."""
        return {}

    def evaluation(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Nothing to log."""

    def step(self, stage: str, step: int, *, seconds: Mapping[str, float], **rest: object) -> None:
        """A step is done."""
        self._ends.append(time.perf_counter())
        self._parts.append(seconds)

    def times(self, *, edge: int) -> StepTimes:
        """Medians over all steps except `edge` at either end."""
        middle = slice(edge, len(self._ends) - edge)
        wholes = [after - before for before, after in itertools.pairwise(self._ends)]

        def of(part: str) -> float:
            return statistics.median(seconds[part] for seconds in self._parts[middle])

        whole = statistics.median(wholes[max(0, edge - 1) : len(wholes) - edge])
        return StepTimes(whole=whole, rollout=of("rollout"), learn=of("learn"), sync=of("sync"))


class StepBench:
    """Runs the loop on a cluster's actors."""

    def __init__(self, cluster: Any, records: Sequence[Record], model: Path) -> None:
        self._cluster, self._records, self._model = cluster, records, model

    def times(self, *, max_staleness: int, answer_tokens: int, num_steps: int, edge: int) -> StepTimes:
        """A run from the model's own weights."""
        settings = step_settings(max_staleness=max_staleness, answer_tokens=answer_tokens, num_steps=num_steps)
        self._cluster.learner.begin(str(self._model), settings)
        feed = RolloutFeed(self._cluster.rollouts, PromptStream(records=self._records, seed=0), settings, seed=0)
        watch: Any = Stopwatch()
        grpo.train(
            settings,
            feed=feed,
            rewards=self._cluster.rewards,
            canaries=watch,
            learner=self._cluster.learner,
            sync=self._cluster.sync,
            progress=watch,
            heldout=watch,
            log=watch,
        )
        return replace(watch.times(edge=edge), num_failed=feed.failures.total())

    def balanced_length(self) -> int:
        """Answer tokens at which rollout and learning, one after the other, take about equally long."""
        tried: dict[int, float] = {}
        length = FIRST_ANSWER_TOKENS
        for _ in range(NUM_TRIES):
            times = self.times(max_staleness=0, answer_tokens=length, num_steps=3, edge=1)
            tried[length] = max(times.rollout, times.learn) / min(times.rollout, times.learn)
            longer = times.rollout < times.learn  # the learner pays for prompts too, so longer answers favour it
            length = max(8, min(MAX_ANSWER_TOKENS, round(length * (1.6 if longer else 0.7))))
            if tried[min(tried, key=tried.__getitem__)] < BALANCED or length in tried:
                break
        return min(tried, key=tried.__getitem__)


def step_settings(*, max_staleness: int, answer_tokens: int, num_steps: int) -> GrpoConfig:
    """Settings of a stage that only measures: its learning rates are too small to teach anything."""
    return GrpoConfig(
        num_steps=num_steps,
        prompts_per_step=NUM_PROMPTS,
        group_size=GROUP_SIZE,
        max_answer_tokens=answer_tokens,
        max_staleness=max_staleness,
        learning_rate=GrpoRates(vision=1e-9, projector=1e-9, language=1e-9),
        kl_beta=0.0,
    )


def step_figures(
    bench: StepBench,
    *,
    num_steps: int = NUM_STEPS,
    edge: int = EDGE_STEPS,
    rounds: int = ROUNDS,
    answer_tokens: int | None = None,
) -> list[Figure]:
    """Both figures, from runs of both modes; without a given answer length, the one that balances the sides."""
    length = answer_tokens or bench.balanced_length()
    modes = [
        [
            bench.times(max_staleness=staleness, answer_tokens=length, num_steps=num_steps, edge=edge)
            for staleness in (0, 1)
        ]
        for _ in range(rounds)
    ]
    apart, beside = map(StepTimes.middle, zip(*modes, strict=True))
    what = (
        f"a step at max_staleness 1 ({beside.text}); {NUM_PROMPTS} prompts x {GROUP_SIZE} answers of {length} tokens; "
        f"baseline: "
    )
    return [
        Figure(
            name="overlap_step",
            value=beside.whole,
            unit="s",
            baseline=apart.slower_side,
            ratio=beside.whole / apart.slower_side,
            meaning=f"{what}the slower side alone",
        ),
        Figure(
            name="overlap_speedup",
            value=beside.whole,
            unit="s",
            baseline=apart.whole,
            ratio=apart.whole / beside.whole,
            meaning=f"{what}a step at max_staleness 0 ({apart.text})",
        ),
    ]
