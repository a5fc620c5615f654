"""A step without finite numbers is skipped and counted, its batch kept; several in a row end the run."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rex_rl.config.actors import GuardsConfig
from rex_rl.config.schema import GrpoConfig
from rex_rl.errors import BrokenWeightsError, LearnerLostError, NonFiniteError
from rex_rl.learning.advantage import train_groups
from rex_rl.run.guards import ARRAYS, GROUPS, GuardedLearner
from rex_rl.types import Mean, Scores, TrainGroup
from tests.support import fakes

CONFIG = GrpoConfig(prompts_per_step=1, group_size=2)


class Diverging(fakes.FakeLearner):
    """A learner without a finite loss at the given steps; its weights do not change there."""

    def __init__(self, *bad_steps: int, error: Exception | None = None) -> None:
        super().__init__([])
        self._bad, self._error = bad_steps, error or NonFiniteError("loss is nan in micro-batch 1 of 1")
        self.asked = 0

    def step(self, groups: list[TrainGroup], factor: float) -> dict[str, Mean]:
        """Raise at a bad step."""
        self.asked += 1
        if self.asked in self._bad:
            raise self._error
        return super().step(groups, factor)


def batch(*, reward: float = 0.5) -> list[TrainGroup]:
    """One group of two answers, the first of which earned `reward`."""
    group = fakes.group("a", (3, 5))
    total_G = np.array([reward, 0.1])
    scores = Scores(total_G=total_G, terms_G={}, decisions_G=(), shapes_G=(fakes.shapes(),) * 2)
    with np.errstate(invalid="ignore"):
        return train_groups([group], [scores], CONFIG)


def guarded(learner: fakes.FakeLearner, folder: Path, *, limit: int = 3) -> GuardedLearner:
    return GuardedLearner(learner, GuardsConfig(max_skipped_in_a_row=limit), stage="grpo", folder=folder)


def test_a_good_step_goes_through_untouched(tmp_path: Path) -> None:
    learner = guarded(Diverging(), tmp_path)
    assert learner.step(batch(), 1.0) == {
        "loss": Mean(total=1.0, count=2.0),
        "guards/skipped_steps": Mean(total=0, count=1.0),
    }
    assert list(tmp_path.iterdir()) == []


def test_a_bad_step_is_skipped_counted_and_its_batch_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompt, tokens, log-probabilities, versions and advantages lie there, and none of it is pickled."""
    learner, groups = guarded(Diverging(2), tmp_path), batch()
    with caplog.at_level(logging.WARNING):
        counts = [learner.step(groups, 1.0)["guards/skipped_steps"].value for _ in range(3)]
    assert counts == [0, 1, 1]
    assert "step 2 skipped: loss is nan in micro-batch 1 of 1" in caplog.text
    folder = tmp_path / "grpo_000002"
    (line,) = (folder / GROUPS).read_text().splitlines()
    facts = json.loads(line)
    assert facts["reason"] == "loss is nan in micro-batch 1 of 1"
    assert facts["prompt"]["uid"] == groups[0].prompt.uid
    assert facts["prompt"]["record"]["image"] == groups[0].prompt.record.image
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        assert len(arrays.files) == 2 * 4
        for j, one in enumerate(groups[0].answers):
            np.testing.assert_array_equal(arrays[f"0/{j}/tokens"], one.answer.tokens_T)
            np.testing.assert_array_equal(arrays[f"0/{j}/advantages"], one.advantages_T)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_no_number_never_reaches_the_learner(
    tmp_path: Path, reward: float, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a named error of the group; a zero in its place would be a reward."""
    inner = Diverging()
    learned = guarded(inner, tmp_path).step(batch(reward=reward), 1.0)
    assert inner.asked == 0
    assert learned["guards/skipped_steps"].value == 1
    assert "reward of 000000:a is not a number" in caplog.text


def test_several_in_a_row_end_the_run_and_good_ones_between_begin_anew(tmp_path: Path) -> None:
    learner = guarded(Diverging(1, 2, 4, 5, 6), tmp_path)
    for _ in range(5):
        learner.step(batch(), 1.0)
    with pytest.raises(NonFiniteError, match=r"loss is nan.*3 grpo steps in a row.*max_skipped_in_a_row = 3.*000006"):
        learner.step(batch(), 1.0)


def test_a_step_with_broken_weights_is_not_skipped(tmp_path: Path) -> None:
    """A skip would not repair them: the learner counts as lost, and goes on from its last checkpoint."""
    learner = guarded(Diverging(1, error=BrokenWeightsError("weights are not numbers")), tmp_path)
    with pytest.raises(LearnerLostError, match="weights are not numbers"):
        learner.step(batch(), 1.0)


def test_a_resumed_run_counts_on_and_a_step_that_comes_again_counts_once(tmp_path: Path) -> None:
    first = guarded(Diverging(1, 3), tmp_path / "skipped")
    for _ in range(3):
        first.step(batch(), 1.0)
    state = tmp_path / "state"
    state.mkdir()
    two_steps = fakes.FakeLearner([])
    two_steps.num_steps = 2
    two_steps.save_state(state)()

    again = guarded(Diverging(1), tmp_path / "skipped")
    again.load_state(state, 2)
    assert again.step(batch(), 1.0)["guards/skipped_steps"].value == 2
    assert sorted(path.name for path in (tmp_path / "skipped").iterdir()) == ["grpo_000001", "grpo_000003"]


def test_a_batch_that_cannot_be_kept_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As on a full disk: the step is skipped and counted all the same."""
    (tmp_path / "skipped").write_text("no folder")
    learned = guarded(Diverging(1), tmp_path / "skipped").step(batch(), 1.0)
    assert learned["guards/skipped_steps"].value == 1
    assert "its batch could not be kept" in caplog.text


def test_the_state_is_the_learners_own(tmp_path: Path) -> None:
    inner = fakes.FakeLearner([])
    inner.num_steps = 4
    guarded(inner, tmp_path).save_state(tmp_path)()
    assert len((tmp_path / "learner.safetensors").read_bytes()) == 800


def test_a_group_with_a_bad_token_alone_is_noticed(tmp_path: Path) -> None:
    (group,) = batch()
    bad_T = group.answers[1].advantages_T.copy()
    bad_T[-1] = np.nan
    hurt = replace(group, answers=(group.answers[0], replace(group.answers[1], advantages_T=bad_T)))
    assert guarded(Diverging(), tmp_path).step([hurt], 1.0)["guards/skipped_steps"].value == 1
