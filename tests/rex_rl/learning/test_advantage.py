"""Advantages by hand, and the laws of credit."""

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
from rex_rl.learning.token_credit import CREDIT_OVER
from rex_rl.types import Scores
from tests.support import fakes

CREDITS_N = st.lists(st.floats(-1, 1), max_size=6).map(np.array)
CREDITS = ("none", "prefix", "leave_one_out")


def evenly_spanned(num_shapes: int) -> list[tuple[int, int]]:
    """Shapes of five tokens each behind three tokens of phrase."""
    return [(3 + 5 * i, 8 + 5 * i) for i in range(num_shapes)]


def scores_of(total: Sequence[float], credits: Sequence[Sequence[float]]) -> Scores:
    return Scores(
        total_G=fakes.frozen(np.array(total, dtype=np.float64)),
        terms_G={},
        credits_GN=tuple(fakes.frozen(np.array(credits_N, dtype=np.float64)) for credits_N in credits),
        shapes_G=tuple(fakes.shapes(evenly_spanned(len(credits_N))) for credits_N in credits),
    )


def lengths_of(scores: Scores) -> list[int]:
    """Two tokens behind the last shape: the segment's end delimiter and the answer's."""
    return [3 + 5 * credits_N.size + 2 for credits_N in scores.credits_GN]


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


@given(
    st.lists(st.tuples(st.floats(-1, 1), CREDITS_N), min_size=2, max_size=8),
    st.sampled_from(CREDITS),
    st.sampled_from(list(CREDIT_OVER)),
)
def test_every_credit_gives_each_token_a_bounded_advantage(
    drawn: list[tuple[float, np.ndarray]], credit: str, over: str
) -> None:
    scores = scores_of([total for total, _ in drawn], [credits_N.tolist() for _, credits_N in drawn])
    lengths_G = lengths_of(scores)
    config = AdvantageConfig(credit=credit, credit_over=over, normalise_std=False)
    rows = token_advantages(scores, lengths_G, config)
    assert [row.size for row in rows] == lengths_G
    assert np.abs(np.concatenate(rows)).max() <= 2 * (1 + 2 * 6)


def test_without_credit_a_group_that_earned_the_same_teaches_nothing() -> None:
    """Under the other two a shape is still compared with the rest of its own answer."""
    scores = scores_of([0.5, 0.5], [[0.3, 0.3], [0.3, 0.3]])
    for row in token_advantages(scores, lengths_of(scores), AdvantageConfig(credit="none")):
        assert not row.any()


def test_box_credit_comes_on_top_of_the_group_advantage() -> None:
    scores = scores_of([1.0, 0.0], [[0.5, 0.5], [0.2, 0.6]])
    config = AdvantageConfig(credit="prefix", credit_weight=2.0)
    first, second = token_advantages(scores, lengths_of(scores), config)
    assert first == pytest.approx(np.ones(first.size))
    assert (second[0], second[3], second[8]) == pytest.approx((-1.0, -1.0 - 2.0 * 0.2, -1.0 + 2.0 * 0.2))
    _, second = token_advantages(scores, lengths_of(scores), config.model_copy(update={"credit_over": "decisions"}))
    label, shape, goes_on = 0.8 - 1.8 / 2, 0.2 - (9 * 0.5 + 5 * 0.2 + 4 * 0.6) / 18, 0.6 - (0.5 + 0.6 + 0 + 0) / 4
    expected = (-1.0 + 2.0 * label, -1.0 + 2.0 * shape, -1.0 + 2.0 * goes_on)
    assert (second[0], second[3], second[8]) == pytest.approx(expected)


def test_a_train_group_keeps_prompt_answers_and_order() -> None:
    """Weights are those of per-sequence means: every answer of the step counts the same, whatever its length."""
    group = fakes.group(lengths=(3, 5))
    scores = scores_of([1.0, 0.0], [[], []])
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
    (group,) = train_groups([fakes.group(lengths=(2, 6))], [scores_of([1.0, 0.0], [[], []])], config)
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
    group, scores = fakes.group(lengths=(6, 10)), scores_of([0.5, 1.0], [[], []])
    advantage = AdvantageConfig(normalise_std=False)
    free, paying = (
        train_groups([group], [scores], GrpoConfig(max_answer_tokens=10, overlong_buffer=buffer, advantage=advantage))
        for buffer in (0, 4)
    )
    assert [one.advantages_T[0] for one in free[0].answers] == pytest.approx([-0.25, 0.25])
    assert [one.advantages_T[0] for one in paying[0].answers] == pytest.approx([0.25, -0.25])


def mixed(scale: float, *, credit: str, by_task: bool, normalise_std: bool = False) -> list[np.ndarray]:
    """All token advantages of a step of a pointing group, whose rewards are `scale` as large, and a detection group."""
    groups = [fakes.group("a", (15, 10)), fakes.group("b", (15, 10))]
    record = replace(groups[0].prompt.record, task="pointing")
    groups[0] = replace(groups[0], prompt=replace(groups[0].prompt, record=record))
    scores = [
        scores_of([1.0 * scale, 0.25 * scale], [[0.75 * scale, 0.25 * scale], [0.25 * scale]]),
        scores_of([0.5, 0.75], [[0.5, 0.0], [0.75]]),
    ]
    advantage = AdvantageConfig(credit=credit, normalise_std=normalise_std, normalise_by_task=by_task)
    trained = train_groups(groups, scores, GrpoConfig(advantage=advantage))
    return [scored.advantages_T for group in trained for scored in group.answers]


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("normalise_std", [True, False])
def test_a_tasks_scale_does_not_matter_where_tasks_are_normalised(credit: str, normalise_std: bool) -> None:
    """A task with rewards ten times as large teaches as before, in every form of credit; without it, ten times as much
    (credit `none` with normalise_std never did)."""
    one, ten = (mixed(scale, credit=credit, by_task=True, normalise_std=normalise_std) for scale in (1.0, 10.0))
    for first_T, second_T in zip(one, ten, strict=True):
        np.testing.assert_allclose(first_T, second_T, rtol=1e-5)
    plain = mixed(10.0, credit=credit, by_task=False)
    np.testing.assert_allclose(plain[0], 10 * mixed(1.0, credit=credit, by_task=False)[0], rtol=1e-5)


def test_rewards_and_credits_in_units_of_their_task_by_hand() -> None:
    """Spreads within groups: 0.5 for a (0 and 1; 2 and 3); b has none and stays."""
    scores = [scores_of(total, [[total[0]], []]) for total in ([0.0, 1.0], [2.0, 3.0], [0.5, 0.5])]
    scaled = in_task_units(scores, ["a", "a", "b"])
    assert [one.total_G.tolist() for one in scaled] == [[0.0, 2.0], [4.0, 6.0], [0.5, 0.5]]
    assert [one.credits_GN[0].tolist() for one in scaled] == [[0.0], [4.0], [0.5]]
