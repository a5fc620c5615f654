"""Boxes and points against slow references, and the value of a box without area."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rewards import Truth
from rewards.geometry.boxes import (
    GRID_SPAN_BINS,
    paired_iou,
    paired_nearness,
    pairwise_closeness,
    pairwise_iou,
    points_in_boxes,
)
from rewards.values import Boxes, Points
from rex_rl.language.grid import GRID_STEPS


def _random_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    """Boxes as a model may write them: a few with swapped corners or no area."""
    boxes_N4 = rng.integers(0, 1000, (num, 4))
    sound_N = rng.random(num) < 0.8
    boxes_N4[sound_N] = np.concatenate(
        [boxes_N4[sound_N, :2], np.minimum(boxes_N4[sound_N, :2] + rng.integers(1, 400, (sound_N.sum(), 2)), 999)], 1
    )
    return boxes_N4


def test_iou_equals_pycocotools_for_every_kind_of_box() -> None:
    """Exactly equal, swapped and empty boxes included: pycocotools is the reference evaluators use."""
    rng = np.random.default_rng(0)
    for num_a, num_b in ((1, 1), (3, 7), (20, 20), (100, 60)):
        boxes_A4, truth_B4 = _random_boxes(rng, num_a), _random_boxes(rng, num_b)
        xywh_A4, xywh_B4 = (
            np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
            for boxes in (boxes_A4, truth_B4)
        )
        expected_AB = coco_mask.iou(xywh_A4, xywh_B4, [0] * num_b)
        np.testing.assert_array_equal(pairwise_iou(boxes_A4, truth_B4), expected_AB)


def test_a_box_without_area_overlaps_nothing_not_even_itself() -> None:
    """Zero width, zero height, one or both pairs of corners swapped: 0 with a sound box, itself and each other."""
    odd_N4 = [[5, 5, 5, 9], [5, 5, 9, 5], [5, 5, 5, 5], [9, 0, 0, 9], [0, 9, 9, 0], [9, 9, 0, 0], [999, 999, 0, 0]]
    everything_N4 = [*odd_N4, [0, 0, 999, 999]]
    assert not pairwise_iou(odd_N4, everything_N4).any()
    assert not pairwise_iou(everything_N4, odd_N4).any()


@pytest.mark.parametrize(("num_a", "num_b"), [(0, 0), (0, 3), (3, 0)])
def test_empty_shapes_are_kept(num_a: int, num_b: int) -> None:
    """(0, B) stays (0, B), so that no caller needs a case of its own."""
    for function, width in ((pairwise_iou, 4), (pairwise_closeness, 2)):
        value_AB = function(np.zeros((num_a, width)), np.zeros((num_b, width)))
        assert value_AB.shape == (num_a, num_b)
        assert value_AB.dtype == np.float64


def test_the_grid_is_the_codec_s() -> None:
    """Layers forbid the import, so a test holds the two numbers together."""
    assert GRID_SPAN_BINS == GRID_STEPS


def test_paired_iou_is_the_diagonal() -> None:
    """To the last bit, odd boxes included; IoU is symmetric to the last bit too."""
    rng = np.random.default_rng(3)
    first_L4, second_L4 = _random_boxes(rng, 60), _random_boxes(rng, 60)
    np.testing.assert_array_equal(paired_iou(first_L4, second_L4), np.diag(pairwise_iou(first_L4, second_L4)))
    np.testing.assert_array_equal(pairwise_iou(first_L4[:7], second_L4), pairwise_iou(second_L4, first_L4[:7]).T)


def test_iou_does_not_change_when_an_axis_is_scaled() -> None:
    """So IoU on the square grid is IoU on the image, whatever its sides."""
    rng = np.random.default_rng(1)
    boxes_A4, truth_B4 = _random_boxes(rng, 20), _random_boxes(rng, 20)
    scale = np.array([1.92, 1.08, 1.92, 1.08])
    np.testing.assert_allclose(
        pairwise_iou(boxes_A4 * scale, truth_B4 * scale), pairwise_iou(boxes_A4, truth_B4), atol=1e-12
    )


def test_leading_axes_are_a_batch() -> None:
    """A stack of scenes gives the stack of what each scene gives."""
    rng = np.random.default_rng(2)
    boxes_GA4 = np.stack([_random_boxes(rng, 5) for _ in range(3)])
    truth_GB4 = np.stack([_random_boxes(rng, 4) for _ in range(3)])
    singles = [pairwise_iou(boxes_A4, truth_B4) for boxes_A4, truth_B4 in zip(boxes_GA4, truth_GB4, strict=True)]
    np.testing.assert_array_equal(pairwise_iou(boxes_GA4, truth_GB4), singles)


def test_closeness_falls_with_the_distance_and_ends_at_fifty_bins() -> None:
    """1 on the spot, 0.9 at 5 bins, 0 at 50 and beyond, the same in every direction."""
    points_A2 = [[100, 100], [95, 100], [100, 105], [97, 104], [100, 149], [100, 150], [900, 900]]
    expected_A = [1.0, 0.9, 0.9, 0.9, 0.02, 0.0, 0.0]
    np.testing.assert_allclose(pairwise_closeness(points_A2, [[100, 100]])[:, 0], expected_A)


def test_near_duplicates_include_five_bins_and_exclude_an_iou_of_seven_tenths() -> None:
    """The limits themselves: a distance of exactly 5 is near, an IoU of exactly 0.7 is not."""
    points_N2 = np.array([[0, 0], [5, 0], [3, 4], [0, 5], [4, 4], [6, 0]], dtype=np.float64)
    truth = Truth((), np.zeros((0, 2)), ())
    first_L, second_L = np.zeros(5, dtype=np.int64), np.arange(1, 6)
    near_L = Points.beside(points_N2, truth.bins_NK, [truth]).near(first_L, second_L)
    assert near_L.tolist() == [True, True, True, False, False]
    boxes_N4 = np.array([[0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 100, 100], [0, 0, 100, 71]], dtype=np.float64)
    assert pairwise_iou(boxes_N4[:1], boxes_N4[1:2])[0, 0] == 0.7
    boxes = Boxes(boxes_N4, Truth((), np.zeros((0, 4)), ()))
    assert boxes.near(np.array([0, 2]), np.array([1, 3])).tolist() == [False, True]


def test_points_on_the_side_of_a_box_are_inside() -> None:
    """All four sides and corners belong to it, the next bin does not."""
    inside = [[10, 20], [30, 20], [10, 40], [30, 40], [20, 20], [10, 30], [20, 30]]
    outside = [[9, 30], [31, 30], [20, 19], [20, 41]]
    assert points_in_boxes([*inside, *outside], [[10, 20, 30, 40]])[:, 0].tolist() == [True] * 7 + [False] * 4
    assert points_in_boxes(np.zeros((0, 2)), np.zeros((3, 4))).shape == (0, 3)


def test_nearness_by_hand() -> None:
    """Union 2 of an enclosing 3: GIoU -1/3; centres 2 apart in a diagonal of sqrt(10). Odd boxes are near nothing."""
    box, other, odd = [0, 0, 1, 1], [2, 0, 3, 1], [1, 0, 0, 1]
    giou_AB, centre_AB = paired_nearness([[box], [odd]], [box, other, odd])
    np.testing.assert_allclose(giou_AB, [[1.0, (1 - 1 / 3) / 2, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(centre_AB, [[1.0, 1 - 4 / 10, 0.0], [0.0, 0.0, 0.0]])


def test_nearness_lies_between_nothing_and_equality() -> None:
    """In [0, 1] for any boxes; 1 only for equal ones; GIoU never above IoU."""
    rng = np.random.default_rng(4)
    boxes_A4, truth_B4 = _random_boxes(rng, 200), _random_boxes(rng, 100)
    giou_AB, centre_AB = paired_nearness(boxes_A4[:, None], truth_B4)
    assert min(giou_AB.min(), centre_AB.min()) >= 0.0
    assert max(giou_AB.max(), centre_AB.max()) <= 1.0
    assert (2 * giou_AB - 1 <= pairwise_iou(boxes_A4, truth_B4) + 1e-12).all()
