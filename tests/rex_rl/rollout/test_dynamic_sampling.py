"""Groups that teach nothing are replaced: every prompt once, in order, within the bounds, also after a resume."""

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl import grpo
from rex_rl.config.schema import AdvantageConfig, GrpoConfig
from rex_rl.data.stream import PromptStream
from rex_rl.errors import Stopped
from rex_rl.interfaces import Learner, Progress
from rex_rl.learning.advantage import teaches
from rex_rl.rollout.dynamic_sampling import with_dynamic_sampling
from rex_rl.rollout.feed import RolloutFeed
from rex_rl.run.checkpoints import StageCheckpoints
from rex_rl.types import Scores
from tests.support import fakes
from tests.support.examples import examples

PROMPTS, STEPS = 3, 5
STREAM = PromptStream(records=[fakes.record(f"r{i}") for i in range(5)], seed=0)
MAX_USED = 2 * PROMPTS * STEPS
"""Prompts of a run that replaces as many groups as it learns from."""
UIDS = [prompt.uid for prompt in STREAM.prompts(0, MAX_USED)]


class Unkept:
    """The progress of a run that is never resumed."""

    def restore(self, learner: Learner) -> int:
        """Start from the beginning."""
        return 0

    def after_step(self, step: int, learner: Learner) -> None:
        """Save nothing."""


class Run:
    """One process of a GRPO run in which the groups at these positions of the stream are flat."""

    def __init__(self, flat: Collection[int], *, progress: Progress | None = None, **settings: object) -> None:
        self.config = GrpoConfig(prompts_per_step=PROMPTS, group_size=2, num_steps=STEPS, **settings)
        self.events: list[fakes.Event] = []
        self.pool, self.learner, self.log = fakes.FakePool(self.events), fakes.FakeLearner(self.events), fakes.FakeLog()
        self.rewards = fakes.FakeRewards(self.events, flat=[UIDS[position] for position in flat])
        self.progress = progress or Unkept()

    def train(self) -> "Run":
        feed = RolloutFeed(self.pool, STREAM, self.config, seed=0)
        through = with_dynamic_sampling(feed, self.rewards, self.learner, self.config)
        grpo.train(
            self.config,
            feed=through.feed,
            rewards=through.rewards,
            learner=through.learner,
            canaries=fakes.FakeCanaries(),
            sync=fakes.FakeSync(self.events, self.pool),
            progress=self.progress,
            heldout=fakes.FakeHeldOut(self.events, self.pool),
            log=self.log,
        )
        return self

    @property
    def learned(self) -> list[list[str]]:
        """Uids of each step's batch."""
        return [[group.prompt.uid for group in batch] for batch in self.learner.batches]

    @property
    def asked(self) -> list[str]:
        """Uids in the order in which rollout was asked."""
        return [uid for uid, sampling in self.pool.submitted if sampling.temperature]

    @property
    def dropped(self) -> list[float]:
        """Number of dropped groups as logged, by step."""
        return [metrics["dropped_groups"] for _, _, metrics in self.log.steps]


def by_hand(flat: Collection[int], bound: int) -> tuple[list[list[str]], list[int]]:
    """(uids learned from, number dropped) of each step, by one walk through the stream."""
    position, batches, drops = 0, [], []
    for _ in range(STEPS):
        batch, dropped = [], 0
        while len(batch) < PROMPTS:
            if position in flat and dropped < bound:
                dropped += 1
            else:
                batch.append(UIDS[position])
            position += 1
        batches.append(batch)
        drops.append(dropped)
    return batches, drops


@given(
    st.sets(st.integers(0, MAX_USED - 1)), st.integers(1, PROMPTS), st.sampled_from([0, 1, 3]), st.integers(1, STEPS)
)
@examples(0.5)
def test_every_prompt_once_in_order_within_the_bounds(
    flat: set[int], bound: int, max_staleness: int, last: int
) -> None:
    """Whole steps of P; dropped groups count as used; no prompt is asked in vain; a resumed run goes on alike."""
    settings = {"max_replaced_groups": bound, "max_staleness": max_staleness}
    batches, drops = by_hand(flat, bound)
    whole = Run(flat, **settings).train()
    assert whole.learned == batches
    assert whole.dropped == drops
    assert whole.asked == UIDS[: PROMPTS * STEPS + sum(drops)]
    assert whole.pool.most_in_flight == min(max_staleness + 1, STEPS) * PROMPTS
    for version, batch in enumerate(whole.learner.batches):
        assert version - min(one.answer.oldest_version for group in batch for one in group.answers) <= max_staleness

    with TemporaryDirectory() as folder:

        def checkpoints() -> StageCheckpoints:
            return StageCheckpoints(Path(folder), "grpo", whole.config.model_copy(update={"save_every": 1}))

        with checkpoints() as progress:
            _until(Run(flat, progress=progress, **settings), last)
        with checkpoints() as progress:
            resumed = Run(flat, progress=progress, **settings).train()
    assert resumed.learned == batches[last:]
    assert resumed.dropped == drops[last:]
    assert resumed.asked == UIDS[PROMPTS * last + sum(drops[:last]) : PROMPTS * STEPS + sum(drops)]


def _until(run: Run, last: int) -> None:
    """Train, and stop once step `last` and its checkpoint are done."""
    after_step = run.progress.after_step

    def stop(step: int, learner: Learner) -> None:
        after_step(step, learner)
        if step == last:
            raise Stopped("asked to end")

    run.progress.after_step = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run.train()


def test_the_reward_of_all_groups_is_logged_beside_that_of_those_learned_from() -> None:
    """Two of five groups earn 0 and are dropped, the other answers 0.3 and 0.4; the next step drops none."""
    run = Run([0, 3], max_replaced_groups=2).train()
    logged = [(metrics["reward"], metrics["reward_raw"]) for _, _, metrics in run.log.steps]
    assert logged == [pytest.approx((0.35, 0.21)), *[pytest.approx((0.35, 0.35))] * (STEPS - 1)]


def test_off_is_the_plain_run() -> None:
    """Flat groups stay, each is scored once, nothing new is logged."""
    run = Run(range(4)).train()
    assert run.asked == UIDS[: PROMPTS * STEPS]
    assert run.events.count(("score", PROMPTS)) == STEPS
    assert not {"dropped_groups", "reward_raw"} & set(run.log.steps[0][2])


def test_groups_are_scored_once() -> None:
    """The loop's call is answered with the scores the feed found: three groups and one more, not three again."""
    run = Run([1], max_replaced_groups=2).train()
    assert [count for name, count in run.events if name == "score"] == [PROMPTS, 1, *[PROMPTS] * (STEPS - 1)]
    assert run.log.steps[0][2]["frac_reward_zero_std"] == 0.0


def test_switched_on_at_a_resume_it_counts_from_there(tmp_path: Path) -> None:
    """A checkpoint of a plain run has no number of dropped groups."""
    settings = GrpoConfig(prompts_per_step=PROMPTS, num_steps=STEPS, save_every=1)
    with StageCheckpoints(tmp_path, "grpo", settings) as progress:
        _until(Run([6], progress=progress), 2)
    with StageCheckpoints(tmp_path, "grpo", settings) as progress:
        run = Run([6], progress=progress, max_replaced_groups=1).train()
    assert run.dropped == [1, 0, 0]
    assert run.asked == UIDS[2 * PROMPTS : STEPS * PROMPTS + 1]


@pytest.mark.parametrize(
    ("total_G", "settings", "expected"),
    [
        ([0.3, 0.1 + 0.2], {}, False),
        ([0.3, 0.4], {}, True),
        ([0.3, np.nan], {}, True),
        ([0.3, 0.3], {"advantage": AdvantageConfig(credit="to_go")}, False),
        ([0.3, 0.4], {"advantage": AdvantageConfig(credit="to_go")}, True),
        ([0.3, 0.3], {"max_answer_tokens": 5, "overlong_buffer": 3}, True),
    ],
)
def test_what_teaches(total_G: list[float], settings: dict, expected: bool) -> None:
    """A group's spread, or a cost of its answers' lengths; a total that is not finite stays."""
    scores = Scores(total_G=np.array(total_G), terms_G={}, decisions_G=(), shapes_G=(fakes.shapes(),) * 2)
    assert teaches(fakes.group(lengths=(3, 5)), scores, GrpoConfig(**settings)) == expected
