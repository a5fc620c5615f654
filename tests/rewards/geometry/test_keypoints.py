"""OKS against pycocotools, its rules for key points that are not visible, and the value it has in a reward."""

import contextlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rewards import RewardWeights, Truth, score_group
from rewards.geometry.keypoints import mutual_oks, paired_oks

COCO_SIGMAS_J = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
SIGMAS_J = [0.05, 0.05]
BOX = [100, 100, 200, 200]


def _instances(rng: np.random.Generator, num: int) -> np.ndarray:
    """Boxes in a crowd with 17 key points within."""
    low_N2 = rng.integers(0, 300, (num, 2))
    side_N2 = rng.integers(100, 400, (num, 2))
    points_NJ2 = low_N2[:, None] + rng.integers(0, side_N2[:, None], (num, 17, 2))
    return np.concatenate([low_N2, low_N2 + side_N2, points_NJ2.reshape(num, -1)], axis=1)


def _coco_oks(predicted_AK: np.ndarray, truth_BK: np.ndarray, visible_BJ: np.ndarray) -> np.ndarray:
    """pycocotools' OKS [A, B], the box's area as the segment's."""

    def triples(row_K: np.ndarray, visible_J: np.ndarray) -> list[float]:
        points_J2 = row_K[4:].reshape(-1, 2) * visible_J[:, None]
        return np.concatenate([points_J2, 2.0 * visible_J[:, None]], axis=1).ravel().tolist()

    boxes_B4 = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in truth_BK[:, :4].tolist()]
    common = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "width": 999, "height": 999}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {**common, "id": place + 1, "bbox": box, "area": box[2] * box[3], "num_keypoints": int(visible_J.sum()),
             "keypoints": triples(row_K, visible_J)}
            for place, (box, row_K, visible_J) in enumerate(zip(boxes_B4, truth_BK, visible_BJ, strict=True))
        ],
    }  # fmt: skip
    everything = np.ones(17)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(
            [
                {"image_id": 1, "category_id": 1, "keypoints": triples(row_K, everything), "score": -float(place)}
                for place, row_K in enumerate(predicted_AK)
            ]
        )
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation._prepare()
    return np.asarray(evaluation.computeOks(1, 1))


def test_oks_is_that_of_pycocotools() -> None:
    """17 persons predicted and 9 true, a third of the true key points not visible, at least one visible each."""
    rng = np.random.default_rng(0)
    truth_BK = _instances(rng, 9)
    predicted_AK = np.concatenate([truth_BK + rng.integers(-20, 21, truth_BK.shape), _instances(rng, 8)])
    visible_BJ = rng.random((9, 17)) < 0.67
    visible_BJ[:, 0] = True
    expected_AB = _coco_oks(predicted_AK, truth_BK, visible_BJ)
    truth_BK[:, 4:][~np.repeat(visible_BJ, 2, axis=1)] = -1
    np.testing.assert_allclose(
        paired_oks(np.maximum(predicted_AK, 0)[:, None], truth_BK, COCO_SIGMAS_J)[9:], expected_AB[9:]
    )
    clipped_AK = np.maximum(predicted_AK, 0)
    expected_AB = _coco_oks(clipped_AK, np.maximum(truth_BK, 0), visible_BJ)
    np.testing.assert_allclose(paired_oks(clipped_AK[:, None], truth_BK, COCO_SIGMAS_J), expected_AB, atol=1e-12)
    assert (expected_AB > 0.5).sum() >= 9


def test_only_key_points_visible_in_the_truth_count() -> None:
    """Missed ones cost their share, invented ones nothing, as in COCO."""
    truth_1K = [[*BOX, 120, 120, -1, -1]]
    predicted = [[*BOX, 120, 120, 180, 180], [*BOX, 120, 120, -1, -1], [*BOX, -1, -1, 180, 180]]
    assert paired_oks(predicted, truth_1K, SIGMAS_J).tolist() == [1.0, 1.0, 0.0]
    both_1K = [[*BOX, 120, 120, 180, 180]]
    assert paired_oks(predicted, both_1K, SIGMAS_J).tolist() == [1.0, 0.5, 0.5]


def test_without_a_visible_key_point_the_box_counts() -> None:
    """Box IoU, whatever key points are predicted; elsewhere the predicted box does not matter."""
    truth_2K = [[*BOX, -1, -1, -1, -1], [*BOX, 120, 120, 180, 180]]
    predicted = [[*BOX, -1, -1, -1, -1], [100, 100, 200, 150, 120, 120, 180, 180], [9, 9, 0, 0, 120, 120, 180, 180]]
    assert paired_oks(np.array(predicted)[:, None], truth_2K, SIGMAS_J).tolist() == [[1.0, 0.0], [0.5, 1.0], [0.0, 1.0]]


def test_distances_are_measured_by_the_true_box() -> None:
    """exp(-d^2 / (2 area (2 sigma)^2)): 10 bins off in a box of 100 x 100 with sigma 0.05 is exp(-1/2)."""
    predicted, truth = [[*BOX, 130, 120]], [[*BOX, 120, 120], [100, 100, 300, 300, 120, 120]]
    expected = [np.exp(-100 / (2 * side**2 * 0.01)) for side in (100, 200)]
    assert paired_oks(predicted, truth, [0.05]).tolist() == pytest.approx(expected)


def test_duplicates_hide_neither_behind_a_small_box_nor_an_odd_one() -> None:
    """Three bins off with the same key points: alike by the larger of the boxes, or by the spread of the points."""
    original = np.array([*BOX, 110, 110, 190, 190])
    for corners in (BOX, [100, 100, 101, 101], [200, 200, 100, 100]):
        copy = np.array([*corners, 113, 110, 187, 190])
        assert mutual_oks(original[None], copy[None], SIGMAS_J)[0] > 0.9
        assert mutual_oks(copy[None], original[None], SIGMAS_J)[0] > 0.9
        assert mutual_oks(copy[None], copy[None] + [0, 0, 0, 0, 3, 0, 3, 0], SIGMAS_J)[0] > 0.9


def test_a_key_point_visible_in_one_of_two_tells_them_apart() -> None:
    """Half of the key points are seen by only one: 0.5, no near-duplicates; without any visible, the boxes decide."""
    whole, half, none = [*BOX, 110, 110, 190, 190], [*BOX, 110, 110, -1, -1], [*BOX, -1, -1, -1, -1]
    first_L, second_L = np.array([whole, whole, none, half]), np.array([half, none, none, half])
    assert mutual_oks(first_L, second_L, SIGMAS_J).tolist() == [0.5, 0.0, 1.0, 1.0]


def test_no_instances_have_no_values() -> None:
    """No pair, no value."""
    assert paired_oks(np.zeros((0, 8)), np.ones((0, 8)), SIGMAS_J).shape == (0,)


def _values(predicted_NK: np.ndarray, truth_K: np.ndarray) -> np.ndarray:
    """[N] value of each instance for the truth: the F1 of an answer that is it alone."""
    truth = Truth(
        ("a",), np.array([truth_K]), ("a",), geometry="keypoints", sigmas_J=np.full((len(truth_K) - 4) // 2, 0.05)
    )
    answers = [SimpleNamespace(labels=("a",), bins_NK=row_K[None], faults=(), absent=()) for row_K in predicted_NK]
    return score_group(answers, truth, weights=RewardWeights()).terms_G["f1"]


def test_the_value_is_half_the_key_points_and_half_the_box() -> None:
    """By hand: right points in a box half beside the true one (IoU 1 / 3), or far off, or with swapped corners; a right
    box with one point of two, or with none; and both right.
    """
    points, half_beside, swapped = [120, 120, 180, 180], [150, 100, 250, 200], [200, 200, 100, 100]
    cases = {
        (*BOX, *points): 1.0,
        (*half_beside, *points): (1 + 1 / 3) / 2,
        (700, 700, 900, 900, *points): 1 / 2,
        (*swapped, *points): 1 / 2,
        (*BOX, 120, 120, -1, -1): (1 / 2 + 1) / 2,
        (*BOX, -1, -1, -1, -1): 1 / 2,
        (*half_beside, 120, 120, -1, -1): (1 / 2 + 1 / 3) / 2,
    }
    assert _values(np.array(list(cases)), np.array([*BOX, *points])) == pytest.approx(list(cases.values()), abs=1e-12)


def test_without_a_visible_key_point_the_value_is_that_of_the_box() -> None:
    """All of it, not half."""
    predicted_NK = np.array([[150, 100, 250, 200, -1, -1], [*BOX, 120, 120]])
    assert _values(predicted_NK, np.array([*BOX, -1, -1])) == pytest.approx([1 / 3, 1.0])


def test_a_box_on_its_way_to_its_place_never_loses_value() -> None:
    """60 boxes from anywhere, swapped corners too, whatever the key points; the last step alone has the whole value."""
    rng = np.random.default_rng(1)
    steps_N1 = np.linspace(0.0, 1.0, 41)[:, None]
    for trial in range(60):
        truth_K, predicted_K = _instances(rng, 2)
        if trial % 2:
            predicted_K = np.concatenate([rng.integers(0, 1000, 4), truth_K[4:] + rng.integers(-9, 10, 34)])
        moving_NK = np.tile(predicted_K.astype(np.float64), (41, 1))
        moving_NK[:, :4] += steps_N1 * (truth_K[:4] - predicted_K[:4])
        value_N = _values(moving_NK, truth_K)
        assert (np.diff(value_N) >= -1e-12).all()
        assert value_N[-1] > value_N[0]
        with_points_N = _values(np.concatenate([moving_NK[:, :4], np.tile(truth_K[4:], (41, 1))], axis=1), truth_K)
        assert (with_points_N[:-1] < 1.0).all()
        assert with_points_N[-1] == 1.0
