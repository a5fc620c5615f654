"""What an answer had earned after each of its shapes, against the answer that ends there, scored as one of its own."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from rewards import REWARDS, GroupScores, Predictions, Prefixes, RewardWeights, Truth, score_group
from rewards.matching import UNMATCHED, match
from rewards.overlaps import measure
from tests.rewards.conftest import KINDS

SceneMaker = Callable[[np.random.Generator, str], tuple[Predictions, Truth]]

WEIGHTS = RewardWeights()
ROUNDING = 1e-12
NUM_SCENES = 60
ANSWER_TERMS = ("rejection", "format", "truncated")
"""Terms that shapes do not decide."""
BOX, OTHER = [100, 100, 300, 300], [500, 500, 700, 700]


def cuts(answer: Predictions) -> list[Predictions]:
    """The answer ended after none of its shapes, after the first, and so on to all."""
    return [
        SimpleNamespace(
            labels=answer.labels[:num], bins_NK=answer.bins_NK[:num], faults=answer.faults, absent=answer.absent
        )
        for num in range(len(answer.labels) + 1)
    ]


def decided_by_shapes(scores: GroupScores, weights: RewardWeights) -> np.ndarray:
    """[G] the total without the terms that shapes do not decide."""
    return scores.total_G + sum(getattr(weights, name) * scores.terms_G[name] for name in ANSWER_TERMS)


def matched_totals(scores: GroupScores) -> np.ndarray:
    """[G] the sum of matched values that an F1 stands for: F1 = 2 sum / (predicted + true)."""
    num_shapes_G = scores.num_predicted_G + scores.num_true
    return np.where(num_shapes_G > 0, scores.terms_G["f1"] * num_shapes_G / 2, 0.0)


def prefixes_of(answer: Predictions, truth: Truth, weights: RewardWeights = WEIGHTS, name: str = "matched") -> Prefixes:
    """One answer's."""
    return score_group([answer], truth, weights=weights, name=name, prefixes=True).prefixes_G[0]


def boxes(*shapes: list[int], labels: tuple[str, ...] | None = None) -> Predictions:
    """An answer of these boxes, labelled "a" unless told."""
    names = labels or ("a",) * len(shapes)
    return SimpleNamespace(labels=names, bins_NK=np.array(shapes).reshape(-1, 4), faults=(), absent=())


def random_weights(rng: np.random.Generator) -> RewardWeights:
    """Each weight between 0 and 1; in half of the draws boxes are shaped."""
    names = ("f1", "duplicates", "surplus", "large", *ANSWER_TERMS, *(("giou", "centre") if rng.random() < 0.5 else ()))
    return RewardWeights(**{name: float(rng.random()) for name in names})


@pytest.mark.parametrize("kind", KINDS)
def test_every_prefix_earned_what_the_answer_that_ends_there_earns(random_scene: SceneMaker, kind: str) -> None:
    """Reward of the shapes and matched total, in crowds, for any weights; the shortcut of plain answers is met too."""
    rng = np.random.default_rng(30)
    num_plain, num_with_duplicates, num_contested = 0, 0, 0
    for _ in range(NUM_SCENES):
        answer, truth = random_scene(rng, kind)
        weights = random_weights(rng)
        prefixes = prefixes_of(answer, truth, weights)
        scores = score_group(cuts(answer), truth, weights=weights)
        expected_P = decided_by_shapes(scores, weights)
        np.testing.assert_allclose(prefixes.earned_P, expected_P, rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(prefixes.total_P, matched_totals(scores), rtol=0, atol=ROUNDING)
        (overlaps,) = measure([[answer]], [truth], weights)
        num_plain += overlaps.is_plain and len(answer.labels) > 1
        num_with_duplicates += bool(scores.num_duplicates_G[-1])
        num_contested += not overlaps.is_plain and not scores.num_duplicates_G[-1]
    assert min(num_plain, num_with_duplicates, num_contested) >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_matched_truths_are_those_of_a_best_matching_of_the_prefix(random_scene: SceneMaker, kind: str) -> None:
    """As many as the cut answer matches; it can match them all at its best total, each at a value above 0."""
    rng = np.random.default_rng(31)
    num_matched = 0
    for _ in range(NUM_SCENES):
        answer, truth = random_scene(rng, kind)
        prefixes = prefixes_of(answer, truth)
        assert prefixes.is_matched_PB.shape == (len(answer.labels) + 1, len(truth.labels))
        overlaps_P = measure([cuts(answer)], [truth], WEIGHTS)
        for overlaps, total, is_matched_B in zip(overlaps_P, prefixes.total_P, prefixes.is_matched_PB, strict=True):
            best = match(overlaps.value_NB, overlaps.root_N)
            with_these = match(overlaps.value_NB[:, is_matched_B], overlaps.root_N)
            assert with_these.total == pytest.approx(best.total, abs=ROUNDING)
            assert total == pytest.approx(best.total, abs=ROUNDING)
            served = np.count_nonzero(with_these.truth_N != UNMATCHED)
            assert served == is_matched_B.sum() == np.count_nonzero(best.truth_N != UNMATCHED)
            assert not is_matched_B[(overlaps.value_NB <= 0.0).all(axis=0)].any()
            num_matched += served
    assert num_matched > 4 * NUM_SCENES


@pytest.mark.parametrize("name", [name for name in REWARDS if name != "matched"])
def test_under_a_published_reward_a_prefix_earned_its_formula(random_scene: SceneMaker, name: str) -> None:
    """The formula of the answer that ends there; totals and matched truths stay those of `matched`."""
    rng = np.random.default_rng(32)
    num_different = 0
    for trial in range(2 * NUM_SCENES):
        answer, truth = random_scene(rng, KINDS[trial % len(KINDS)])
        prefixes, matched = prefixes_of(answer, truth, name=name), prefixes_of(answer, truth)
        formula_P = score_group(cuts(answer), truth, weights=WEIGHTS, name=name).total_G
        np.testing.assert_allclose(prefixes.earned_P, formula_P, rtol=0, atol=ROUNDING)
        assert prefixes.total_P.tolist() == matched.total_P.tolist()
        assert prefixes.is_matched_PB.tolist() == matched.is_matched_PB.tolist()
        num_different += not np.allclose(prefixes.earned_P, matched.earned_P)
    assert num_different > NUM_SCENES / 2


def test_prefixes_are_measured_only_where_they_are_asked_for() -> None:
    """By default there are none; asked for, the empty answer has the one of no shapes."""
    truth = Truth(("a", "a"), np.array([BOX, OTHER]), ("a",))
    assert score_group([boxes(BOX)], truth, weights=WEIGHTS).prefixes_G == ()
    scores = score_group([boxes(), boxes(BOX, BOX)], truth, weights=WEIGHTS, prefixes=True)
    nothing, twice = scores.prefixes_G
    assert (nothing.earned_P.tolist(), nothing.total_P.tolist()) == ([0.0], [0.0])
    assert nothing.is_matched_PB.tolist() == [[False, False]]
    assert len(twice.earned_P) == len(twice.total_P) == len(twice.is_matched_PB) == 3


def test_the_copy_and_not_its_original_loses() -> None:
    """After the first 2 / 3; the copy costs precision and half of the whole penalty."""
    truth = Truth(("a", "a"), np.array([BOX, OTHER]), ("a",))
    prefixes = prefixes_of(boxes(BOX, BOX, OTHER), truth)
    penalty = 0.5 * 1 / 2
    assert prefixes.earned_P == pytest.approx([0.0, 2 / 3, 2 / 4 - penalty, 4 / 5 - penalty - 0.25 / 2])
    assert prefixes.total_P.tolist() == [0.0, 1.0, 1.0, 2.0]
    assert prefixes.is_matched_PB.tolist() == [[False, False], [True, False], [True, False], [True, True]]


def test_a_first_wrong_shape_of_an_empty_truth_loses_all() -> None:
    """Its F1 and its surplus; a second costs no more, as both are at their limit."""
    prefixes = prefixes_of(boxes(BOX, OTHER), Truth((), np.zeros((0, 4)), ("a",)))
    assert prefixes.earned_P.tolist() == [1.0, -0.25, -0.25]
    assert prefixes.is_matched_PB.shape == (3, 0)


def test_a_lost_giant_costs_from_where_it_stands() -> None:
    """Precision, surplus and its own penalty."""
    truth = Truth(("a",), np.array([BOX]), ("a",))
    prefixes = prefixes_of(boxes(BOX, [0, 0, 999, 999], labels=("a", "b")), truth)
    assert prefixes.earned_P == pytest.approx([0.0, 1.0, 2 / 3 - 0.25 - 0.25])


def test_truths_change_hands_and_a_bridge_gives_them_back() -> None:
    """By hand, all boxes 100 wide: the second shape is better at the first one's truth, which moves to its second best;
    the third joins both, as all three aim at one truth, and the group keeps one truth: the best member's.
    """
    ours, beside = [100, 100, 200, 200], [40, 100, 140, 200]
    truth = Truth(("a", "a"), np.array([beside, ours]), ("a",))
    left, right, bridge = ([x0, 100, x0 + 100, 200] for x0 in (80, 110, 95))
    prefixes = prefixes_of(boxes(left, right, bridge), truth)
    assert prefixes.total_P == pytest.approx([0.0, 80 / 120, 90 / 110 + 60 / 140, 95 / 105])
    assert prefixes.is_matched_PB.tolist() == [[False, False], [False, True], [True, True], [False, True]]
    penalties = 0.5 * 2 / 2 + 0.25 * 1 / 2  # two duplicates and one surplus of two true shapes
    assert prefixes.earned_P[-1] == pytest.approx(2 * (95 / 105) / 5 - penalties)


def row(*starts: int) -> list[list[int]]:
    """Boxes of 100 x 100 bins that start there: 17 bins apart they are near, 18 apart not."""
    return [[x0, 100, x0 + 100, 200] for x0 in starts]


CHAINS = {
    # name: (starts of the true boxes, of the predicted ones, matched total after each)
    "the first is better than all that join it": (
        (100, 110),
        (104, 85, 95),
        (96 / 104, 94 / 106 + 85 / 115, 96 / 104),
    ),
    "a later one joins by a member that was joined before": (
        (100, 180),
        (70, 100, 116, 85, 132),
        (70 / 130, 1.0, 1.0, 1.0, 1.0),
    ),
}


@pytest.mark.parametrize("case", CHAINS)
def test_chains_that_aim_at_one_truth_keep_one_truth(case: str) -> None:
    """By hand: whatever else its members would be worth to the truth beside it."""
    true, starts, expected = CHAINS[case]
    truth = Truth(("a", "a"), np.array(row(*true)), ("a",))
    prefixes = prefixes_of(boxes(*row(*starts)), truth)
    assert prefixes.total_P == pytest.approx([0.0, *expected])
    assert prefixes.is_matched_PB[-1].tolist() == [True, False]
