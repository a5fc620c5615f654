"""The GRPO loop with fakes that keep the real contract: the order of its calls, and what a resumed run does."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rex_rl import grpo
from rex_rl.config.actors import GuardsConfig
from rex_rl.config.schema import GrpoConfig
from rex_rl.data.stream import PromptStream
from rex_rl.errors import NonFiniteError, Stopped
from rex_rl.interfaces import Progress
from rex_rl.rollout.feed import RolloutFeed
from rex_rl.run.checkpoints import StageCheckpoints
from rex_rl.run.guards import GuardedLearner
from rex_rl.types import TrainGroup
from tests.support import fakes

PROMPTS, ANSWERS = 3, 4
STREAM = PromptStream(records=[fakes.record(f"r{i}") for i in range(5)], seed=0)


class Run:
    """One process of a GRPO run."""

    def __init__(self, *, progress: Progress | None = None, start: int = 0, **settings: object) -> None:
        self.config = GrpoConfig(prompts_per_step=PROMPTS, group_size=ANSWERS, **settings)
        self.events: list[fakes.Event] = []
        self.pool = fakes.FakePool(self.events)
        self.learner = fakes.FakeLearner(self.events)
        self.log = fakes.FakeLog()
        self.heldout = fakes.FakeHeldOut(self.events, self.pool)
        self.progress = progress or fakes.FakeProgress(self.events, start=start)
        self.sync = fakes.FakeSync(self.events, self.pool)

    def collaborators(self) -> dict[str, Any]:
        return {
            "feed": RolloutFeed(self.pool, STREAM, self.config, seed=0),
            "rewards": fakes.FakeRewards(self.events),
            "canaries": fakes.FakeCanaries(),
            "learner": self.learner,
            "sync": self.sync,
            "progress": self.progress,
            "heldout": self.heldout,
            "log": self.log,
        }

    def train(self) -> "Run":
        grpo.train(self.config, **self.collaborators())
        return self

    def steps_of(self, *names: str) -> list[int]:
        return [step for name, step in self.events if name in names]

    def order(self, *names: str) -> list[fakes.Event]:
        return [event for event in self.events if event[0] in names]


def uids(batch: list[TrainGroup]) -> list[str]:
    return [group.prompt.uid for group in batch]


def test_one_step_in_its_order() -> None:
    """The engines get the learner's weights before the first prompts, and new weights before new prompts."""
    run = Run(num_steps=2, eval_every=0, save_every=0).train()
    submits = [("submit", position) for position in range(2 * PROMPTS)]
    assert run.events == [
        ("publish", 0),
        *submits[:PROMPTS],
        ("score", PROMPTS),
        ("step", 1),
        ("publish", 1),
        *submits[PROMPTS:],
        ("after_step", 1),
        ("score", PROMPTS),
        ("step", 2),
        ("publish", 2),
        ("after_step", 2),
        ("evaluate", 2),
    ]


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_every_publish_follows_a_step_and_no_answer_is_too_old(max_staleness: int) -> None:
    """In the same loop, synchronous or ahead, answers lag by the bound at most, and prompts come in order."""
    run = Run(num_steps=6, max_staleness=max_staleness).train()
    assert run.order("step", "publish") == [
        ("publish", 0),
        *[event for step in range(1, 7) for event in (("step", step), ("publish", step))],
    ]
    for version, batch in enumerate(run.learner.batches):
        oldest = min(one.answer.oldest_version for group in batch for one in group.answers)
        assert version - oldest == min(version, max_staleness)
    learned = [uid for batch in run.learner.batches for uid in uids(batch)]
    assert learned == [prompt.uid for prompt in STREAM.prompts(0, 6 * PROMPTS)]
    assert [uid for uid, _ in run.pool.submitted] == learned, "nothing is answered in vain"


def test_checkpoints_may_come_at_every_step_and_evaluations_when_due() -> None:
    run = Run(num_steps=7, eval_every=3).train()
    assert run.steps_of("after_step") == [1, 2, 3, 4, 5, 6, 7]
    assert run.steps_of("evaluate") == [3, 6, 7]
    assert [(stage, step) for stage, step, _ in run.log.evaluations] == [("grpo", 3), ("grpo", 6), ("grpo", 7)]


def test_a_step_is_logged_with_its_numbers_and_parts() -> None:
    run = Run(num_steps=2).train()
    assert [(stage, step) for stage, step, _ in run.log.steps] == [("grpo", 1), ("grpo", 2)]
    metrics = run.log.steps[0][2]
    assert metrics["reward"] == pytest.approx(np.mean([0.3, 0.4, 0.5, 0.6]))
    assert metrics["loss"] == 0.5
    assert metrics["sync/version"] == 1
    assert list(run.log.seconds[0]) == ["rollout", "reward", "advantage", "learn", "sync"]


def test_a_step_learns_from_whole_groups_with_weights_that_sum_to_one() -> None:
    run = Run(num_steps=1).train()
    (batch,) = run.learner.batches
    assert [len(group.answers) for group in batch] == [ANSWERS] * PROMPTS
    scored = [one for group in batch for one in group.answers]
    assert sum(one.token_weight * one.answer.tokens_T.size for one in scored) == pytest.approx(1)
    for group in batch:
        assert sum(one.advantages_T[0] for one in group.answers) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_resumed_run_learns_from_the_same_batches(tmp_path: Path, max_staleness: int) -> None:
    """Stopped after 4 of 6 steps, with a checkpoint of step 3: steps 4 to 6 see the prompts they would have seen."""
    settings = {"num_steps": 6, "save_every": 3, "max_staleness": max_staleness, "schedule": "linear"}
    whole = Run(**settings).train()

    def checkpoints() -> StageCheckpoints:
        return StageCheckpoints(tmp_path, "grpo", GrpoConfig(**settings))

    first = Run(progress=checkpoints(), **settings)
    learn = first.learner.step

    def until_it_is_killed(groups: list[TrainGroup], factor: float) -> dict:
        if first.learner.num_steps == 4:
            raise KeyboardInterrupt
        return learn(groups, factor)

    first.learner.step = until_it_is_killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), first.progress:  # type: ignore[attr-defined]
        first.train()

    with checkpoints() as progress:
        second = Run(progress=progress, **settings).train()
    assert second.events[:2] == [("load", 3), ("publish", 3)]
    assert [uids(batch) for batch in second.learner.batches] == [uids(batch) for batch in whole.learner.batches[3:]]
    assert whole.learner.factors == pytest.approx([1 - step / 6 for step in range(6)])
    assert second.learner.factors == whole.learner.factors[3:]
    assert [step for _, step, _ in second.log.steps] == [4, 5, 6]


def test_a_run_killed_before_its_last_evaluation_still_has_figures() -> None:
    """Its checkpoint says that all steps are done; only the evaluation is missing."""
    run = Run(num_steps=4, start=4).train()
    assert run.steps_of("step", "after_step") == []
    assert run.order("publish", "evaluate") == [("publish", 4), ("evaluate", 4)]
    assert run.log.evaluations == [("grpo", 4, {"f1_50": 4.0})]


def test_a_loss_that_is_no_number_stops_before_anything_is_published_or_saved(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(num_steps=3)
    learn = run.learner.step

    def diverging(groups: list[TrainGroup], factor: float) -> dict:
        if run.learner.num_steps == 1:
            raise NonFiniteError("loss is nan")
        return learn(groups, factor)

    run.learner.step = diverging  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING), pytest.raises(NonFiniteError):
        run.train()
    assert run.steps_of("publish") == [0, 1]
    assert run.steps_of("after_step") == [1]


def test_a_run_asked_to_end_does_so_after_the_step_and_its_checkpoint() -> None:
    """Nothing is evaluated or learned afterwards, and the step is in the log."""
    run = Run(num_steps=5, eval_every=1)
    run.progress = fakes.FakeProgress(run.events, last=2)
    with pytest.raises(Stopped):
        run.train()
    assert run.steps_of("step") == run.steps_of("after_step") == [1, 2]
    assert run.steps_of("evaluate") == [1]
    assert [step for _, step, _ in run.log.steps] == [1, 2]


def test_a_guarded_learner_skips_a_step_and_the_loop_goes_on(tmp_path: Path) -> None:
    """The step counts as done, the same weights are published under its number, and the next prompts are asked."""
    run = Run(num_steps=3)
    learn = run.learner.step

    def diverging(groups: list[TrainGroup], factor: float) -> dict:
        learned = learn(groups, factor)
        if run.learner.num_steps == 2:
            raise NonFiniteError("loss is nan")
        return learned

    run.learner.step = diverging  # type: ignore[method-assign]
    guarded = GuardedLearner(run.learner, GuardsConfig(), stage="grpo", folder=tmp_path)
    grpo.train(run.config, **{**run.collaborators(), "learner": guarded})
    assert run.steps_of("publish") == [0, 1, 2, 3]
    assert [metrics["guards/skipped_steps"] for _, _, metrics in run.log.steps] == [0, 1, 1]
    assert ["loss" in metrics for _, _, metrics in run.log.steps] == [True, False, True]
    assert [uid for uid, _ in run.pool.submitted] == [prompt.uid for prompt in STREAM.prompts(0, 3 * PROMPTS)]
