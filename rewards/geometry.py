"""How well two shapes agree: IoU of boxes, closeness of points.

Axes: A said shapes, B true shapes, N shapes of one answer, K numbers a shape has (4: box, 2: point). Coordinates
are bins of the answer grid, taken as continuous coordinates; IoU does not change when an axis is scaled, so a value
on the grid is the value on the image. Leading axes are allowed and broadcast (a batch of answers in one call).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

POINT, BOX = 2, 4
"""K of the geometries there are; polygons and key points come with a module of their own."""

GRID_SPAN_BINS = 999
"""Width and height of the answer grid: lines 0 to 999."""
NEAR_IOU = 0.7
"""Two boxes of one label that overlap by more than this are near-copies."""
NEAR_BINS = 5.0
"""Two points of one label at most this far apart are near-copies: 0.5 % of the image's side."""
POINT_REACH_BINS = 50.0
"""A point this far from the true point is worth 0. Provisional: true masks will replace it."""

_NEAR_CLOSENESS = 1.0 - NEAR_BINS / POINT_REACH_BINS  # the arithmetic of pairwise_closeness, so 5 bins are near
_TINY = np.finfo(np.float64).tiny


def pairwise_iou(boxes_A4: ArrayLike, truth_B4: ArrayLike) -> FloatArray:
    """Intersection over union of every box with every other.

    Args:
        boxes_A4: [..., A, 4] boxes [x0, y0, x1, y1] as written: corners may be swapped, area may be zero.
        truth_B4: [..., B, 4] the other boxes.

    Returns:
        iou_AB: [..., A, B] float64 in [0, 1]; 0 wherever a box has swapped corners or no area, (0, B) for no box.

    Two NumPy passes over [A, B] in place; as fast as pycocotools' `iou` from about 100 x 100 on, and unlike it
    batched, which is what counts for many small answers.

    >>> pairwise_iou([[0, 0, 10, 10], [10, 0, 0, 10]], [[0, 0, 10, 10], [5, 0, 15, 10]]).round(3).tolist()
    [[1.0, 0.333], [0.0, 0.0]]
    >>> pairwise_iou(np.zeros((0, 4)), np.ones((3, 4))).shape
    (0, 3)
    """
    ax0, ay0, ax1, ay1 = (side_A[..., :, None] for side_A in _sides(boxes_A4))
    bx0, by0, bx1, by1 = (side_B[..., None, :] for side_B in _sides(truth_B4))
    inter_AB = np.minimum(ax1, bx1)
    scratch_AB = np.maximum(ax0, bx0)
    inter_AB -= scratch_AB
    np.maximum(inter_AB, 0.0, out=inter_AB)
    height_AB = np.minimum(ay1, by1)
    np.maximum(ay0, by0, out=scratch_AB)
    height_AB -= scratch_AB
    np.maximum(height_AB, 0.0, out=height_AB)
    inter_AB *= height_AB
    # The smallest normal number keeps 0 / 0 of two boxes without area at 0; it vanishes beside any real area.
    area_A1 = np.maximum(ax1 - ax0, 0.0) * np.maximum(ay1 - ay0, 0.0) + _TINY
    area_1B = np.maximum(bx1 - bx0, 0.0) * np.maximum(by1 - by0, 0.0)
    union_AB = np.add(area_A1, area_1B, out=height_AB)
    union_AB -= inter_AB
    iou_AB: FloatArray = np.divide(inter_AB, union_AB, out=inter_AB)
    return iou_AB


def _sides(boxes_N4: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """x0, y0, x1, y1 as contiguous rows [..., N]."""
    rows_4N = np.ascontiguousarray(np.asarray(boxes_N4, dtype=np.float64).swapaxes(-1, -2))
    return rows_4N[..., 0, :], rows_4N[..., 1, :], rows_4N[..., 2, :], rows_4N[..., 3, :]


def pairwise_closeness(points_A2: ArrayLike, truth_B2: ArrayLike) -> FloatArray:
    """Closeness of every point to every other: 1 - distance / 50 bins, not below 0.

    Args:
        points_A2: [..., A, 2] points [x, y] in bins.
        truth_B2: [..., B, 2] the other points.

    Returns:
        closeness_AB: [..., A, B] float64 in [0, 1].

    A provisional term of this project (the paper rewards a point inside the true mask): it says how far a point is
    off where only true points are known. See POINT_REACH_BINS.

    >>> pairwise_closeness([[100, 100]], [[100, 100], [103, 104], [100, 160]]).round(3).tolist()
    [[1.0, 0.9, 0.0]]
    """
    points = np.asarray(points_A2, dtype=np.float64)
    truth = np.asarray(truth_B2, dtype=np.float64)
    dx_AB = points[..., :, None, 0] - truth[..., None, :, 0]
    dy_AB = points[..., :, None, 1] - truth[..., None, :, 1]
    distance_AB = np.sqrt(dx_AB * dx_AB + dy_AB * dy_AB)
    closeness: FloatArray = np.maximum(1.0 - distance_AB / POINT_REACH_BINS, 0.0)
    return closeness


def pairwise_value(shapes_AK: ArrayLike, truth_BK: ArrayLike) -> FloatArray:
    """What a shape is worth as an answer to another, [..., A, B] in [0, 1]: IoU of boxes, closeness of points.

    Raises ValueError for a geometry there is no value for.

    >>> pairwise_value([[0, 0, 10, 10]], [[0, 0, 10, 5]]).tolist(), pairwise_value([[0, 0]], [[0, 25]]).tolist()
    ([[0.5]], [[0.5]])
    """
    num_coordinates = np.shape(truth_BK)[-1]
    if num_coordinates == BOX:
        return pairwise_iou(shapes_AK, truth_BK)
    if num_coordinates == POINT:
        return pairwise_closeness(shapes_AK, truth_BK)
    raise ValueError(f"shapes of {num_coordinates} coordinates; known are {POINT} (points) and {BOX} (boxes)")


def near_copies(value_NN: FloatArray, num_coordinates: int) -> BoolArray:
    """Which shapes are so alike that they say the same thing twice.

    Args:
        value_NN: `pairwise_value` of the shapes with themselves (or of two sets of shapes).
        num_coordinates: K, 4 for boxes (IoU > 0.7), 2 for points (distance <= 5 bins).

    Returns:
        bool array of the same shape; a shape is near to itself unless it is a box without area.

    >>> near_copies(pairwise_value([[0, 0], [3, 4], [6, 8]], [[0, 0]]), 2).ravel().tolist()
    [True, True, False]
    """
    return value_NN > NEAR_IOU if num_coordinates == BOX else value_NN >= _NEAR_CLOSENESS
