"""Polygon IoU: equal to box IoU where polygons are boxes, and what a broken ring encloses."""

import time

import numpy as np
import pytest
import shapely

from rewards.geometry.boxes import pairwise_iou
from rewards.geometry.polygons import MAX_REPAIRED_VERTICES, region_iou, regions


def _corners(boxes_N4: np.ndarray) -> np.ndarray:
    return boxes_N4[:, [0, 1, 2, 1, 2, 3, 0, 3]]


def test_rectangles_have_the_iou_of_their_boxes() -> None:
    """Only pairs whose bounding rectangles overlap are measured, and none is lost."""
    rng = np.random.default_rng(0)
    low_N2 = rng.integers(0, 900, (120, 2))
    boxes_N4 = np.concatenate([low_N2, low_N2 + rng.integers(1, 400, (120, 2))], axis=1)
    regions_N = regions(_corners(boxes_N4))
    first_L, second_L = np.triu_indices(len(regions_N))
    iou_L = region_iou(regions_N[first_L], regions_N[second_L])
    np.testing.assert_allclose(iou_L, pairwise_iou(boxes_N4, boxes_N4)[first_L, second_L], rtol=0, atol=1e-12)


def test_iou_of_random_polygons_is_that_of_counted_points() -> None:
    """Even-sized areas of quads against the share of a fine grid of points, to the grid's precision."""
    rng = np.random.default_rng(1)
    axis = np.arange(0.25, 100, 0.5)
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    box_42 = np.array([[20, 20], [70, 20], [70, 70], [20, 70]])
    for _ in range(20):
        quads_28 = (box_42 + rng.integers(-15, 16, (2, 4, 2))).reshape(2, 8)
        first, second = regions(quads_28)
        in_first, in_second = (shapely.contains_xy(region, x, y) for region in (first, second))
        expected = (in_first & in_second).sum() / (in_first | in_second).sum()
        assert region_iou(regions(quads_28[:1]), regions(quads_28[1:]))[0] == pytest.approx(expected, abs=0.02)


def test_the_way_a_ring_is_written_makes_no_difference() -> None:
    """Other first vertex, other direction, repeated vertices: the same area, an IoU of exactly 1."""
    rng = np.random.default_rng(2)
    for _ in range(100):
        vertices_V2 = rng.integers(0, 1000, (5, 2))
        region = regions([vertices_V2.ravel()])
        if region[0].area == 0:
            continue
        turned = np.roll(vertices_V2, int(rng.integers(5)), axis=0)[:: rng.choice([-1, 1])]
        for other_V2 in (vertices_V2, turned, np.repeat(turned, 2, axis=0), turned[[0, 1, 2, 3, 4, 4, 4]]):
            assert region_iou(region, regions([other_V2.ravel()]))[0] == 1.0


BROKEN = {
    # name: (ring, area it encloses)
    "bow": ([0, 0, 8, 8, 8, 0, 0, 8], 32.0),
    "flat": ([0, 0, 9, 9, 5, 5], 0.0),
    "one point": ([7, 7, 7, 7, 7, 7, 7, 7], 0.0),
    "there and back": ([0, 0, 9, 0, 0, 0, 9, 0], 0.0),
    "with a spike": ([0, 0, 4, 0, 9, 0, 4, 0, 4, 4, 0, 4], 16.0),
    "written twice": ([0, 0, 4, 0, 4, 4, 0, 4] * 2, 16.0),
    "touching itself": ([0, 0, 4, 4, 8, 0, 8, 8, 4, 4, 0, 8], 32.0),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_ring_encloses_what_lies_within_its_loops(case: str) -> None:
    """Never an exception; no area means an IoU of 0, with itself too."""
    ring, area = BROKEN[case]
    region_1 = regions([ring])
    assert region_1[0].area == pytest.approx(area)
    assert region_iou(region_1, region_1)[0] == (1.0 if area else 0.0)


def test_random_tangles_are_read_without_error_or_delay() -> None:
    """Rings of up to 500 random vertices: an IoU in [0, 1] within a second each; above 64 vertices no area."""
    rng = np.random.default_rng(3)
    for num in (3, 4, 7, 16, 40, MAX_REPAIRED_VERTICES, 100, 500):
        tangles = regions(rng.integers(0, 1000, (5, 2 * num)))
        start = time.process_time()
        iou_AB = region_iou(tangles.repeat(5), np.tile(tangles, 5)).reshape(5, 5)
        assert time.process_time() - start < 5.0
        assert ((iou_AB >= 0.0) & (iou_AB <= 1.0)).all()
        assert (np.diag(iou_AB) == (num <= MAX_REPAIRED_VERTICES)).all()


def test_no_polygons_have_no_values() -> None:
    """No pair, no value."""
    nothing = regions(np.zeros((0, 6)))
    assert region_iou(nothing, nothing).shape == (0,)
