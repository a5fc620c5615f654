"""The metrics of a GRPO step, checked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from rex_rl.run.step_metrics import grpo_metrics
from rex_rl.types import FinishReason, Mean, Scores
from tests.support import fakes


def test_the_numbers_of_a_step() -> None:
    """Two groups of two: one with a spread, one whose answers have equal rewards up to rounding."""
    first, second = fakes.group("a", (4, 6)), fakes.group("b", (2, 8))
    second = replace(second, answers=(second.answers[0], fakes.answer(8, reason=FinishReason.LENGTH)))
    first = replace(first, answers=(fakes.answer(4, reason=FinishReason.LOOPED), first.answers[1]))
    scores = [
        Scores(
            total_G=np.array([1.0, 0.0]),
            terms_G={"f1": np.array([1.0, 0.5]), "duplicates": np.array([0.0, 1.0])},
            decisions_G=(),
            shapes_G=(fakes.shapes([(0, 5), (5, 10)]), fakes.shapes(faults=("truncated",))),
        ),
        Scores(
            total_G=np.array([0.3, 0.1 + 0.2]),
            terms_G={"f1": np.array([0.3, 0.3]), "duplicates": np.zeros(2)},
            decisions_G=(),
            shapes_G=(fakes.shapes([(0, 5)]), fakes.shapes([(0, 5)])),
        ),
    ]
    metrics = grpo_metrics([first, second], scores, {"kl": Mean(total=3.0, count=6.0)}, max_answer_tokens=8)
    assert metrics == pytest.approx(
        {
            "reward": 0.4,
            "reward_std": 0.25,
            "frac_reward_zero_std": 0.5,
            "completions/mean_length": 5.0,
            "completions/max_length": 8.0,
            "completions/clipped_ratio": 0.25,
            "completions/looped_ratio": 0.25,
            "completions/looped_saved_tokens": 4.0,
            "completions/mean_shapes": 1.0,
            "completions/fault_ratio": 0.25,
            "rewards/f1/mean": 0.525,
            "rewards/duplicates/mean": 0.25,
            "kl": 0.5,
        }
    )
    assert all(type(value) is float for value in metrics.values())


def test_means_of_ranks_are_weighted_by_their_counts() -> None:
    joined = Mean(total=3.0, count=3.0) + Mean(total=1.0, count=1.0) + Mean(total=0.0, count=0.0)
    assert joined.value == 1.0
    assert np.isnan(Mean(total=0.0, count=0.0).value)


def test_a_mixed_step_logs_its_rewards_by_task() -> None:
    """Terms are given only for tasks that have them; a step of one task has no such key (above)."""
    groups = [
        replace(fakes.group(name, (1,)), prompt=fakes.prompt(name, task=name)) for name in ("pointing", "ocr_box")
    ]
    scores = [
        Scores(total_G=np.array([total]), terms_G=terms, decisions_G=(), shapes_G=(fakes.shapes(),))
        for total, terms in (
            (1.0, {"f1": np.array([0.5])}),
            (0.0, {"f1": np.array([0.0]), "text_similarity": np.array([0.25])}),
        )
    ]
    metrics = grpo_metrics(groups, scores, {}, max_answer_tokens=9)
    by_task = {name: value for name, value in metrics.items() if name.endswith(("/pointing", "/ocr_box"))}
    assert by_task == {
        "reward/pointing": 1.0,
        "rewards/f1/pointing": 0.5,
        "reward/ocr_box": 0.0,
        "rewards/f1/ocr_box": 0.0,
        "rewards/text_similarity/ocr_box": 0.25,
    }
    assert metrics["rewards/f1/mean"] == 0.25
