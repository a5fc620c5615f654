"""Truths near each other, by hand: what the right answer, a part of it and a repetition earn, to the number."""

from types import SimpleNamespace

import numpy as np
import pytest

from rewards import GroupScores, Predictions, RewardWeights, Truth, score_group


def answer(bins_NK: np.ndarray | list[list[int]], labels: tuple[str, ...] = ()) -> Predictions:
    """These shapes, labelled "a" unless told."""
    return SimpleNamespace(labels=labels or ("a",) * len(bins_NK), bins_NK=np.array(bins_NK), faults=(), absent=())


def scores_of(truth: Truth, *answers: Predictions) -> GroupScores:
    """Under the default weights."""
    return score_group(answers, truth, weights=RewardWeights())


def test_two_people_at_an_iou_of_074() -> None:
    """Both 1, one 2 / 3. One of them twice is a duplicate for all that: 1 / 2 less half of half; so is one beside both
    right ones, which is also a surplus.
    """
    first, second = [100, 100, 187, 300], [113, 100, 200, 300]  # 74 of 100 bins in common
    scores = scores_of(
        Truth(("a", "a"), np.array([first, second]), ("a",)),
        answer([first, second]),
        answer([second, first]),
        answer([second]),
        answer([first, first]),
        answer([first, second, first]),
    )
    assert scores.total_G.tolist() == pytest.approx([1.0, 1.0, 2 / 3, 1 / 2 - 0.25, 4 / 5 - 0.25 - 0.125], abs=1e-12)
    assert scores.num_duplicates_G.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("reach", [2, 5, 12])
def test_ten_points_in_a_row_each_in_a_box_of_its_own(reach: int) -> None:
    """Five bins apart, so each is near the next, in boxes that are apart or overlap those of many: right at 1, nine of
    ten at 18 / 19. The tenth said in the place of the ninth repeats it.
    """
    points_NK = np.stack([100 + 5 * np.arange(10), np.full(10, 100)], axis=1)
    boxes_N4 = np.concatenate([points_NK - reach, points_NK + reach], axis=1)
    truth = Truth(("a",) * 10, points_NK, ("a",), boxes_N4=boxes_N4)
    repeated_NK = np.concatenate([points_NK[:9], points_NK[8:9]])
    scores = scores_of(truth, answer(points_NK), answer(points_NK[::-1]), answer(points_NK[:9]), answer(repeated_NK))
    assert scores.total_G.tolist() == pytest.approx([1.0, 1.0, 18 / 19, 18 / 20 - 0.5 / 10], abs=1e-12)
    assert scores.num_duplicates_G.tolist() == [0, 0, 0, 1]


def test_nested_boxes_of_one_label() -> None:
    """Three within each other, all near: right at 1, two at 4 / 5. A shape a bin off the inner one still aims at it,
    and beside it repeats it.
    """
    outer, middle, inner, smaller = ([100 + by, 100 + by, 300 - by, 300 - by] for by in (0, 5, 10, 11))
    scores = scores_of(
        Truth(("a",) * 3, np.array([outer, middle, inner]), ("a",)),
        answer([middle, inner, outer]),
        answer([inner, outer]),
        answer([outer, middle, smaller]),
        answer([outer, middle, inner, smaller]),
    )
    value = 178**2 / 180**2
    repeated = 6 / 7 - 0.5 / 3 - 0.25 / 3
    assert scores.total_G.tolist() == pytest.approx([1.0, 4 / 5, (2 + value) / 3, repeated], abs=1e-12)
    assert scores.num_duplicates_G.tolist() == [0, 0, 0, 1]


def test_three_coincident_annotations_are_one_box_to_say() -> None:
    """Said once it is the whole answer; said three times two are duplicates, and all penalties that go with them are
    at their limit.
    """
    box = [100, 100, 300, 300]
    truth = Truth(("a",) * 3, np.array([box] * 3), ("a",))
    scores = scores_of(truth, answer([box]), answer([box] * 2), answer([box] * 3))
    assert scores.num_true == 1
    assert scores.total_G.tolist() == pytest.approx([1.0, 2 / 3 - 0.75, 1 / 2 - 0.75], abs=1e-12)
    assert scores.num_duplicates_G.tolist() == [0, 1, 2]


def test_two_texts_at_one_place() -> None:
    """Both read 1, one 2 / 3; the one read twice repeats itself, and so does the same with a letter too many, which
    aims at the text that it is likest to.
    """
    place = [100, 100, 300, 140]
    truth = Truth(("exit", "taxi"), np.array([place] * 2), ("word",), reads_text=True)
    scores = scores_of(
        truth,
        answer([place] * 2, ("taxi", "exit")),
        answer([place], ("taxi",)),
        answer([place] * 2, ("exit", "exit")),
        answer([place] * 2, ("exit", "exist")),
        answer([place] * 2, ("exist", "taxi")),
    )
    assert scores.total_G.tolist() == pytest.approx([1.0, 2 / 3, 1 / 4, 1 / 4, (0.8 + 1) / 2], abs=1e-12)
    assert scores.num_duplicates_G.tolist() == [0, 0, 1, 1, 0]
    assert scores.terms_G["exact_text"].tolist() == [1.0, 0.5, 0.5, 0.5, 0.5]


def test_a_person_of_whom_less_is_seen_in_the_box_of_another() -> None:
    """Both 1. The whole one twice has the value 1 for both truths, and is still one group for one of them."""
    whole, half = [100, 100, 200, 200, 120, 120, 180, 180], [100, 100, 200, 200, 120, 120, -1, -1]
    truth = Truth(("a", "a"), np.array([half, whole]), ("a",), geometry="keypoints")
    scores = scores_of(truth, answer([whole, half]), answer([whole]), answer([whole, whole]))
    assert scores.total_G.tolist() == pytest.approx([1.0, 2 / 3, 1 / 4], abs=1e-12)
    assert scores.num_duplicates_G.tolist() == [0, 0, 1]
