"""IoU and closeness against slow references, and what a box without area is worth."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rewards.geometry import NEAR_BINS, near_copies, pairwise_closeness, pairwise_iou, pairwise_value


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
@pytest.mark.parametrize("num_coordinates", [2, 4])
def test_empty_shapes_are_kept(num_a: int, num_b: int, num_coordinates: int) -> None:
    """(0, B) stays (0, B), so that no caller needs a case of its own."""
    value_AB = pairwise_value(np.zeros((num_a, num_coordinates)), np.zeros((num_b, num_coordinates)))
    assert value_AB.shape == (num_a, num_b)
    assert value_AB.dtype == np.float64


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


def test_near_copies_include_five_bins_and_exclude_an_iou_of_seven_tenths() -> None:
    """The limits themselves: a distance of exactly 5 is near, an IoU of exactly 0.7 is not."""
    offsets = np.array([[NEAR_BINS, 0], [3, 4], [0, NEAR_BINS], [4, 4], [5.001, 0]])
    closeness_A1 = pairwise_closeness(offsets, [[0, 0]])
    assert near_copies(closeness_A1, 2)[:, 0].tolist() == [True, True, True, False, False]
    iou_A1 = pairwise_iou([[0, 0, 10, 7], [0, 0, 100, 71], [0, 0, 1000, 700]], [[0, 0, 10, 10]])
    assert iou_A1[0, 0] == 0.7
    assert not near_copies(iou_A1, 4)[0, 0]
    assert near_copies(pairwise_iou([[0, 0, 100, 71]], [[0, 0, 100, 100]]), 4)[0, 0]


def test_an_unknown_geometry_is_refused_by_name() -> None:
    """Polygons have no value yet: an error, never a reward."""
    with pytest.raises(ValueError, match="6 coordinates"):
        pairwise_value(np.zeros((1, 6)), np.zeros((1, 6)))
