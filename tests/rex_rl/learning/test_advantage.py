"""Advantages and token weights by hand, and their laws; the credit of decisions: test_token_credit.py."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.config.schema import AdvantageConfig, GrpoConfig
from rex_rl.learning.advantage import (
    group_advantages,
    in_task_units,
    overlong_penalty,
    token_advantages,
    token_weights,
    train_groups,
)
from rex_rl.types import Decisions, Scores
from tests.support import fakes

LENGTHS_G = (15, 10)


def scores_of(total: Sequence[float], earned: Sequence[Sequence[float]] = ()) -> Scores:
    """Answers with a decision for each number of `earned`, three tokens long; every state has one feature, 1."""
    return Scores(
        total_G=fakes.frozen(np.array(total, dtype=np.float64)),
        terms_G={},
        decisions_G=tuple(
            Decisions(
                starts_K=3 * np.arange(len(earned_K)),
                earned_K=fakes.frozen(np.array(earned_K, dtype=np.float64)),
                state_KF=np.ones((len(earned_K), 1)),
            )
            for earned_K in earned
        ),
        shapes_G=tuple(fakes.shapes() for _ in total),
    )


@pytest.mark.parametrize(
    ("rewards", "normalise_std", "expected"),
    [
        ([1.0, 0.0], True, [1.0, -1.0]),
        ([1.0, 0.0], False, [0.5, -0.5]),
        ([1.0, 1.0, 1.0, 0.0], True, [3**-0.5, 3**-0.5, 3**-0.5, -(3**0.5)]),
        ([0.25, 0.5, 0.75], True, [-(1.5**0.5), 0.0, 1.5**0.5]),
        ([0.3, 0.3, 0.3], True, [0.0, 0.0, 0.0]),
        ([0.1 + 0.2, 0.3, 0.3], True, [0.0, 0.0, 0.0]),  # equal up to rounding
    ],
)
def test_group_advantages_by_hand(rewards: list[float], normalise_std: bool, expected: list[float]) -> None:
    advantages_G = group_advantages(np.array(rewards), normalise_std=normalise_std)
    assert advantages_G.tolist() == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(-2, 1), min_size=2, max_size=16))
def test_a_group_is_compared_with_itself(rewards: list[float]) -> None:
    """Mean zero, spread one or nothing, and better answers never get less."""
    total_G = np.array(rewards)
    advantages_G = group_advantages(total_G, normalise_std=True)
    assert advantages_G.mean() == pytest.approx(0, abs=1e-7)
    assert advantages_G.std() == pytest.approx(1, abs=1e-7) or not advantages_G.any()
    assert (np.diff(advantages_G[np.argsort(total_G)]) >= 0).all()


@given(st.lists(st.floats(-2, 1), min_size=2, max_size=8), st.sampled_from([True, False]))
def test_without_credit_all_tokens_of_an_answer_share_its_advantage(rewards: list[float], normalise_std: bool) -> None:
    scores, lengths_G = scores_of(rewards), [1 + i for i in range(len(rewards))]
    (rows,) = token_advantages([scores], [lengths_G], ["a"], AdvantageConfig(normalise_std=normalise_std))
    expected_G = group_advantages(np.array(rewards), normalise_std=normalise_std)
    assert [row.tolist() for row in rows] == [[value] * num for value, num in zip(expected_G, lengths_G, strict=True)]


def test_credit_gives_every_decision_what_followed_it() -> None:
    """Alone in its step a group has V = mean - Phi: at lambda 1 the reward less the mean, below it less of that for
    decisions further from the end, less the mean of the first ones."""
    scores = scores_of([0.6, 0.0], [[0.0, 0.4], [0.0]])
    for decay, mean in ((1.0, 0.0), (0.5, (0.5 * 0.3 - 0.3) / 2)):
        config = AdvantageConfig(credit="to_go", normalise_std=False, credit_lambda=decay)
        ((first, second),) = token_advantages([scores], [(5, 4)], ["a"], config)
        assert first == pytest.approx([decay * 0.3 - mean] * 3 + [0.3 - mean] * 2)
        assert second == pytest.approx([-0.3 - mean] * 4)


def test_a_train_group_keeps_prompt_answers_and_order() -> None:
    """Weights are those of per-sequence means: every answer of the step counts the same, whatever its length."""
    group = fakes.group(lengths=(3, 5))
    scores = scores_of([1.0, 0.0])
    trained, _ = train_groups([group, fakes.group(lengths=(2, 4))], [scores, scores], GrpoConfig())
    assert trained.prompt is group.prompt
    assert [one.answer for one in trained.answers] == list(group.answers)
    assert [one.token_weight * one.answer.tokens_T.size for one in trained.answers] == pytest.approx([0.25, 0.25])
    assert [one.advantages_T.tolist() for one in trained.answers] == [[1.0] * 3, [-1.0] * 5]
    assert trained.answers[0].advantages_T.dtype == np.float32
    assert trained.num_answer_tokens == 8


@pytest.mark.parametrize(
    ("algorithm", "weights", "advantages"),
    [
        ("grpo", [1 / 4, 1 / 12], [1.0, -1.0]),
        ("gspo", [1 / 4, 1 / 12], [1.0, -1.0]),
        ("dr_grpo", [1 / 40, 1 / 40], [0.5, -0.5]),
        ("dapo", [1 / 8, 1 / 8], [1.0, -1.0]),
        ("cispo", [1 / 8, 1 / 8], [1.0, -1.0]),
    ],
)
def test_what_an_algorithms_name_sets(algorithm: str, weights: list[float], advantages: list[float]) -> None:
    """Two answers of 2 and 6 tokens, at most 20: arXiv 2402.03300 and 2507.18071 (means), 2503.20783, 2503.14476."""
    config = GrpoConfig(algorithm=algorithm, max_answer_tokens=20)
    (group,) = train_groups([fakes.group(lengths=(2, 6))], [scores_of([1.0, 0.0])], config)
    assert [one.token_weight for one in group.answers] == pytest.approx(weights)
    assert [one.advantages_T[0] for one in group.answers] == pytest.approx(advantages)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_token_weights_sum_as_they_say(lengths: list[int]) -> None:
    """Means sum to 1 over the step's tokens; constant weights to the mean length as a share of the longest allowed."""
    lengths_B = np.array(lengths)
    sums = {
        name: float(token_weights(lengths_B, name, max_answer_tokens=400) @ lengths_B)
        for name in ("sequence_mean", "token_mean", "constant")
    }
    assert sums == pytest.approx({"sequence_mean": 1, "token_mean": 1, "constant": lengths_B.mean() / 400})


def test_an_overlong_answer_pays_before_rewards_are_compared() -> None:
    """DAPO, arXiv 2503.14476, equation 13, at a limit of 10 and a buffer of 4: free up to 6, -1/2 at 8, -1 at 10."""
    assert overlong_penalty([3, 6, 8, 10], max_answer_tokens=10, buffer=4).tolist() == [0, 0, -0.5, -1]
    group, scores = fakes.group(lengths=(6, 10)), scores_of([0.5, 1.0])
    advantage = AdvantageConfig(normalise_std=False)
    free, paying = (
        train_groups([group], [scores], GrpoConfig(max_answer_tokens=10, overlong_buffer=buffer, advantage=advantage))
        for buffer in (0, 4)
    )
    assert [one.advantages_T[0] for one in free[0].answers] == pytest.approx([-0.25, 0.25])
    assert [one.advantages_T[0] for one in paying[0].answers] == pytest.approx([0.25, -0.25])


def mixed(scale: float, *, credit: str, by_task: bool, normalise_std: bool = False) -> list[np.ndarray]:
    """All token advantages of a step of pointing groups, whose rewards are `scale` as large, and detection groups."""
    groups = [fakes.group(name, LENGTHS_G) for name in "abcd"]
    pointing = replace(groups[0].prompt.record, task="pointing")
    groups[:2] = [replace(group, prompt=replace(group.prompt, record=pointing)) for group in groups[:2]]
    scores = [
        scores_of([1.0 * scale, 0.25 * scale], [[0.0, 0.75 * scale, 0.25 * scale], [0.0, 0.25 * scale]]),
        scores_of([0.5 * scale, 0.5 * scale], [[0.0, 0.0], [0.25 * scale]]),
        scores_of([0.5, 0.75], [[0.0, 0.5], [0.75]]),
        scores_of([0.25, 0.75], [[0.0, 0.0], [0.5]]),
    ]
    advantage = AdvantageConfig(credit=credit, normalise_std=normalise_std, normalise_by_task=by_task)
    trained = train_groups(groups, scores, GrpoConfig(advantage=advantage))
    return [scored.advantages_T for group in trained for scored in group.answers]


@pytest.mark.parametrize("credit", ["none", "to_go"])
@pytest.mark.parametrize("normalise_std", [True, False])
def test_a_tasks_scale_does_not_matter_where_tasks_are_normalised(credit: str, normalise_std: bool) -> None:
    """A task with rewards ten times as large teaches as before, in every form of credit; without it, ten times as much
    (credit `none` with normalise_std never did)."""
    one, ten = (mixed(scale, credit=credit, by_task=True, normalise_std=normalise_std) for scale in (1.0, 10.0))
    for first_T, second_T in zip(one, ten, strict=True):
        np.testing.assert_allclose(first_T, second_T, rtol=1e-5)
    plain = mixed(10.0, credit=credit, by_task=False)
    np.testing.assert_allclose(plain[0], 10 * mixed(1.0, credit=credit, by_task=False)[0], rtol=1e-5)


def test_rewards_in_units_of_their_task_by_hand() -> None:
    """Spreads within groups: 0.5 for a (0 and 1; 2 and 3); b has none and stays."""
    scores = [scores_of(total, [[total[0]], []]) for total in ([0.0, 1.0], [2.0, 3.0], [0.5, 0.5])]
    scaled = in_task_units(scores, ["a", "a", "b"])
    assert [one.total_G.tolist() for one in scaled] == [[0.0, 2.0], [4.0, 6.0], [0.5, 0.5]]
    assert [one.decisions_G[0].earned_K.tolist() for one in scaled] == [[0.0], [4.0], [0.5]]
