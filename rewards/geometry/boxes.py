"""How well boxes and points agree: IoU and centres of boxes, closeness of points, points in boxes.

Axes: A predicted shapes, B true shapes, N shapes of one answer, K numbers a shape has (4: box, 2: point). Coordinates
are bins of the answer grid, taken as continuous coordinates; IoU does not change when an axis is scaled, so a value
on the grid is the value on the image. Leading axes are allowed and broadcast (a batch of answers in one call).
Polygons, key points and masks have modules of their own.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

POINT, BOX = 2, 4
"""K of a point and of a box."""

GRID_SPAN_BINS = 999
"""Width and height of the answer grid: lines 0 to 999 (rex_rl.language.grid.GRID_STEPS; a test holds them together)."""
POINT_REACH_BINS = 50.0
"""A point this far from the true point has value 0, where there is neither a box nor a mask to hit."""

_TINY = np.finfo(np.float64).tiny


def pairwise_iou(boxes_A4: ArrayLike, truth_B4: ArrayLike) -> FloatArray:
    """Intersection over union of every box with every other.

    Args:
        boxes_A4: [..., A, 4] boxes [x0, y0, x1, y1] as written: corners may be swapped, area may be zero.
        truth_B4: [..., B, 4] the other boxes.

    Returns:
        iou_AB: [..., A, B] float64 in [0, 1]; 0 wherever a box has swapped corners or no area, (0, B) for no box.

    A dozen NumPy passes in place; as fast as pycocotools' `iou` from about 100 x 100 on, and unlike it batched, which
    is what counts for many small answers. IoU is symmetric, and the longer axis runs innermost.

    >>> pairwise_iou([[0, 0, 10, 10], [10, 0, 0, 10]], [[0, 0, 10, 10], [5, 0, 15, 10]]).round(3).tolist()
    [[1.0, 0.333], [0.0, 0.0]]
    >>> pairwise_iou(np.zeros((0, 4)), np.ones((3, 4))).shape
    (0, 3)
    """
    if np.shape(boxes_A4)[-2] > np.shape(truth_B4)[-2]:
        return pairwise_iou(truth_B4, boxes_A4).swapaxes(-1, -2)
    boxes_4A1 = [side_A[..., :, None] for side_A in _sides(boxes_A4)]
    truth_41B = [side_B[..., None, :] for side_B in _sides(truth_B4)]
    return _iou(boxes_4A1, truth_41B)


def paired_iou(first_L4: ArrayLike, second_L4: ArrayLike) -> FloatArray:
    """[..., L] IoU of pairs of boxes [..., L, 4]: the diagonal of `pairwise_iou`.

    >>> paired_iou([[0, 0, 10, 10], [10, 0, 0, 10]], [[0, 0, 10, 5], [10, 0, 0, 10]]).tolist()
    [0.5, 0.0]
    """
    return _iou(_sides(first_L4), _sides(second_L4))


def _iou(first: Sequence[FloatArray], second: Sequence[FloatArray]) -> FloatArray:
    """IoU of boxes given as x0, y0, x1, y1, of shapes that broadcast."""
    ax0, ay0, ax1, ay1 = first
    bx0, by0, bx1, by1 = second
    inter = np.minimum(ax1, bx1)
    scratch = np.maximum(ax0, bx0)
    inter -= scratch
    np.maximum(inter, 0.0, out=inter)
    height = np.minimum(ay1, by1)
    np.maximum(ay0, by0, out=scratch)
    height -= scratch
    np.maximum(height, 0.0, out=height)
    inter *= height
    # The smallest normal number keeps 0 / 0 of two boxes without area at 0; it vanishes beside any real area.
    area_a = np.maximum(ax1 - ax0, 0.0) * np.maximum(ay1 - ay0, 0.0) + _TINY
    area_b = np.maximum(bx1 - bx0, 0.0) * np.maximum(by1 - by0, 0.0)
    union = np.add(area_a, area_b, out=height)
    union -= inter
    iou: FloatArray = np.divide(inter, union, out=inter)
    return iou


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

    A term of this project: it tells how far a point is off where only true points are known. Where a box or a mask
    is known too, a point inside it is right (paper section 4.2.3), which values.py prefers.

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


def points_in_boxes(points_A2: ArrayLike, boxes_B4: ArrayLike) -> BoolArray:
    """Which points lie in which boxes, the sides included: [..., A, 2] and [..., B, 4] bins to [..., A, B].

    >>> points_in_boxes([[5, 5], [10, 0], [11, 5]], [[0, 0, 10, 10]]).ravel().tolist()
    [True, True, False]
    """
    points_A12, boxes_1B4 = np.asarray(points_A2)[..., :, None, :], np.asarray(boxes_B4)[..., None, :, :]
    inside_AB2: BoolArray = (boxes_1B4[..., :2] <= points_A12) & (points_A12 <= boxes_1B4[..., 2:])
    return np.asarray(inside_AB2.all(axis=-1))


def paired_nearness(first_L4: ArrayLike, second_L4: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Two measures that still tell boxes apart where their IoU is 0; both grow as a box comes closer.

    Args:
        first_L4: [..., L, 4] boxes as written: corners may be swapped, area may be zero.
        second_L4: [..., L, 4] the other box of each pair.

    Returns:
        giou_L, centre_L: [..., L] in [0, 1], 1 for equal boxes and 0 wherever a box has swapped corners or no area.

    With E the smallest box around both: GIoU = IoU - (E - union) / E, moved from (-1, 1] to (0, 1] (Rezatofighi et
    al., arXiv 1902.09630); and 1 - (distance of the centres / diagonal of E) squared (Zheng et al., arXiv 1911.08287).

    >>> [part.round(3).tolist() for part in paired_nearness([[0, 0, 10, 10]], [[[0, 0, 10, 10]], [[10, 0, 20, 10]]])]
    [[[1.0], [0.5]], [[1.0], [0.8]]]
    """
    first_L4, second_L4 = np.asarray(first_L4, dtype=np.float64), np.asarray(second_L4, dtype=np.float64)
    low_L2 = np.minimum(first_L4[..., :2], second_L4[..., :2])
    high_L2 = np.maximum(first_L4[..., 2:], second_L4[..., 2:])
    sides_L2, other_L2 = first_L4[..., 2:] - first_L4[..., :2], second_L4[..., 2:] - second_L4[..., :2]
    sound_L = (sides_L2 > 0).all(axis=-1) & (other_L2 > 0).all(axis=-1)
    around_L2 = np.where(sound_L[..., None], high_L2 - low_L2, 1.0)
    iou_L = paired_iou(first_L4, second_L4)
    union_L = (sides_L2.prod(axis=-1) + other_L2.prod(axis=-1)) / (1.0 + iou_L)  # IoU = inter / union
    giou_L = iou_L - 1.0 + np.minimum(union_L / around_L2.prod(axis=-1), 1.0)
    apart_L2 = (first_L4[..., :2] + first_L4[..., 2:] - second_L4[..., :2] - second_L4[..., 2:]) / 2.0
    centre_L = 1.0 - (apart_L2**2).sum(axis=-1) / (around_L2**2).sum(axis=-1)
    return np.where(sound_L, (1.0 + giou_L) / 2.0, 0.0), np.where(sound_L, centre_L, 0.0)
